"""Peak memory of one runner on one case, in this process: `python -m benchmarks.memory CASE RUNNER …`, JSON."""

import ctypes
import gc
import json
import logging
import math
import sys
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import calibration, competitors, searched
from benchmarks.cases import CASES, Case
from benchmarks.runners import Runner
from haste_compiler import HasteConfig
from tests import zoo

# TVM and this compiler are imported when they are measured, like the other runners' libraries.

_MIB = 1 << 20


@dataclass(frozen=True)
class Memory:
    """Memory in MiB. The first two are over a process that has imported PyTorch; other libraries count.

    Attributes:
        preparing: peak while the network was loaded, exported, calibrated, compiled and first called.
        running: peak while it then runs, the original let go of where the runner doesn't need it.
        planned: what a compiled network of ours is known to need: packed weights and tables, the tensors between
            kernels as TVM's planner shares them, and the largest scratch memory of a kernel. NaN for others.
    """

    preparing: float
    running: float
    planned: float = math.nan


def measure_memory(case: str, runner: str, threads: int, batch: int, searched_file: Path) -> Memory:
    """Measure in this process, which should have done nothing else before. Linux only.

    Raises:
        AbsentError: the case needs what is not there.
        OSError: the system doesn't tell a process's peak, or doesn't let it be reset.
    """
    zoo.missing_torchvision()  # imports it where it is there
    torch.set_num_threads(threads)
    _settle()
    before = _status("VmRSS")
    _reset_peak()
    built = CASES[case](batch)
    made = _made(built, runner, threads, searched.read(searched_file, case))
    encoded = [made.encode(x) for x in built.inputs]
    for x in encoded:
        made.run(x)
    preparing = _status("VmHWM") - before
    case_of_ours = built if runner in competitors.OURS else None
    del built
    _settle()
    _reset_peak()
    for x in encoded:
        made.run(x)
    running = _status("VmHWM") - before
    if case_of_ours is None:
        return Memory(preparing, running)
    return Memory(preparing, running, planned(case_of_ours.model, case_of_ours.inputs[0], made.run))


def _made(case: Case, runner: str, threads: int, found: HasteConfig | None) -> Runner:
    make = competitors.makers([runner], lambda: calibration.calls(case), found)[runner]
    return make(case.model, case.inputs[0], threads)


def planned(model: nn.Module, x: Tensor, compiled: Any) -> float:
    """MiB that a network needs as `haste_compiler.compile` made it: constants, planned tensors, largest scratch."""
    from tvm import tirx

    from haste_compiler.codegen.target import machine_of
    from haste_compiler.codegen.walk import lower
    from haste_compiler.cost.pricing import Pricing
    from haste_compiler.graph.capture import capture
    from haste_compiler.methods.pipeline import run_passes
    from haste_compiler.methods.registry import rules_for

    captured = capture(model, (x,))
    # Predictions decide which layers have a gate, and with it the plain convolution's filters as well.
    machine = machine_of(compiled.target, compiled.threads)
    gm = run_passes(captured, compiled.configs, predict=Pricing(machine, captured.flatten_inputs((x,))))
    lowered = lower(gm, machine, rules_for(machine))
    mod = machine.plan(lowered.mod)
    constants = sum(constant.nbytes for constant in lowered.constants)
    scratch = [_scratch(function.body) for function in mod.functions.values() if isinstance(function, tirx.PrimFunc)]
    return (constants + _storage(mod["main"]) + compiled.threads * max(scratch)) / _MIB


def _storage(function: Any) -> int:
    """Bytes of the tensors between kernels."""
    from tvm import relax

    sizes = []

    def visit(node: Any) -> None:
        if isinstance(node, relax.Call) and getattr(node.op, "name", "") == "relax.vm.alloc_storage":
            sizes.append(math.prod(int(size) for size in node.args[0].values))

    relax.analysis.post_order_visit(function, visit)
    return sum(sizes)


def _scratch(statement: Any) -> int:
    """Bytes of all buffers that a kernel allocates."""
    import tvm
    from tvm import tirx

    total = 0
    if isinstance(statement, tirx.AllocBuffer):
        buffer = statement.buffer
        dtype = tvm.DataType(str(buffer.dtype))
        total = math.prod(int(size) for size in buffer.shape) * dtype.bits * dtype.lanes // 8
    for field in ("body", "then_case", "else_case"):
        inner = getattr(statement, field, None)
        total += 0 if inner is None else _scratch(inner)
    return total + sum(_scratch(inner) for inner in getattr(statement, "seq", ()))


def _settle() -> None:
    """Give back what is free, so that it doesn't count."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)


def _status(name: str) -> float:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) / 1024


def _reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    case, runner, threads, batch, file = sys.argv[1:]
    print("\n" + json.dumps(asdict(measure_memory(case, runner, int(threads), int(batch), Path(file)))))
