"""Times on a CUDA card beside cuDNN and torch.compile, outputs against the oracle: ``python -m benchmarks.gpu``."""

import argparse
import json
import math
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import haste_compiler
from haste_compiler import HasteConfig
from haste_compiler.methods.haste.reference.swap import swap_convs
from tests import zoo

WARM_UP = 10
_MATRIX = 8192
_COPIED = 1 << 30
_WHOLE = HasteConfig(cost_model=False, patch_size=64)
"""HASTE in every eligible layer, the image one patch: what the oracle is compared with."""

_LIMITS = {"fp32": 1e-4, "tf32": 1e-2, "bf16": 5e-2}
"""Relative error of the outputs (2-norm) that a runner may have."""


@dataclass(frozen=True)
class Peaks:
    """What the card reaches: operations a second by precision, and bytes a second copied."""

    operations: dict[str, float]
    bytes: float


@dataclass(frozen=True)
class Case:
    """A network and a batch, on the card.

    Attributes:
        network, batch: which.
        model, x: in evaluation mode, and what it is called with.
        operations: of the dense network's call.
    """

    network: str
    batch: int
    model: nn.Module
    x: Tensor
    operations: int


@dataclass(frozen=True)
class Timing:
    """One runner on one network and batch.

    Attributes:
        network, batch, runner: which.
        precision: of its products.
        milliseconds: median over the rounds, by the card's own events; NaN where it failed.
        error: of its outputs against eager float32, relative.
        share: of the card's measured peak at that precision, counting the dense network's operations.
        failure: why there is no time.
    """

    network: str
    batch: int
    runner: str
    precision: str
    milliseconds: float
    error: float
    share: float
    failure: str = ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print tables, write JSON; 1 where there is no card or a runner computes something else."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="+", choices=zoo.ZOO, default=list(zoo.ZOO))
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 32, 256])
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--quick", action="store_true", help="ResNet-18 and MobileNetV2 at batch 1 and 32")
    parser.add_argument("--json", type=Path, help="where the numbers go")
    given = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print("benchmarks.gpu needs a CUDA card, and PyTorch finds none", file=sys.stderr)
        return 1
    if given.quick:
        given.networks, given.batches = ["resnet18", "mobilenet_v2"], [1, 32]
    peaks = measure_peaks()
    timings = [
        timing for name in given.networks for batch in given.batches for timing in run(name, batch, given.rounds, peaks)
    ]
    Console(soft_wrap=True).print(markdown(timings, peaks), markup=False)
    if given.json:
        found = {"card": torch.cuda.get_device_name(), "peaks": asdict(peaks), "timings": [asdict(t) for t in timings]}
        given.json.write_text(json.dumps(found, indent=1))
    return int(any(timing.failure for timing in timings))


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Let PyTorch's convolutions and matrix products round to TF32, or not."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def seconds(run: Callable[[], Any], rounds: int) -> float:
    """Median time of a call by the card's events, after some that aren't counted."""
    for _ in range(WARM_UP):
        run()
    times = []
    for _ in range(rounds):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / 1e3)
    return statistics.median(times)


def measure_peaks(rounds: int = 20) -> Peaks:
    """The card's own peaks: a large matrix product in each precision, and a large copy."""
    a, b = (torch.randn(_MATRIX, _MATRIX, device="cuda") for _ in range(2))
    operations = {}
    for precision in ("fp32", "tf32", "bf16"):
        left, right = (a.bfloat16(), b.bfloat16()) if precision == "bf16" else (a, b)
        with tf32(precision == "tf32"):
            operations[precision] = 2 * _MATRIX**3 / seconds(partial(torch.mm, left, right), rounds)
    source = torch.empty(_COPIED, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return Peaks(operations, 2 * _COPIED / seconds(lambda: target.copy_(source), rounds))


Runner = Callable[[nn.Module, Tensor], Callable[[Tensor], Any]]


def _eager(allowed: bool, layout: torch.memory_format = torch.contiguous_format) -> Runner:
    def prepare(model: nn.Module, x: Tensor) -> Callable[[Tensor], Any]:
        placed: Any = model.to(memory_format=layout)  # type: ignore[call-overload]

        def call(t: Tensor) -> Any:
            with tf32(allowed):
                return placed(t.to(memory_format=layout))

        return call

    return prepare


def _by_torch_compile(allowed: bool, **arguments: Any) -> Runner:
    def prepare(model: nn.Module, x: Tensor) -> Callable[[Tensor], Any]:
        torch._dynamo.reset()
        with tf32(allowed):
            made: Any = torch.compile(model, **arguments)
            made(x)
        return _eager(allowed)(made, x)

    return prepare


def _ours(precision: str, config: HasteConfig) -> Runner:
    def prepare(model: nn.Module, x: Tensor) -> Callable[[Tensor], Any]:
        return haste_compiler.compile(model, (x,), target="cuda", config=config, precision=precision)

    return prepare


RUNNERS: dict[str, tuple[str, Runner]] = {
    "eager": ("fp32", _eager(False)),
    "eager TF32": ("tf32", _eager(True)),
    "channels_last TF32": ("tf32", _eager(True, torch.channels_last)),
    "torch.compile max-autotune TF32": ("tf32", _by_torch_compile(True, mode="max-autotune")),
    "torch.compile max-autotune fp32": ("fp32", _by_torch_compile(False, mode="max-autotune")),
    "torch.compile haste": ("fp32", _by_torch_compile(False, backend="haste")),
    "torch.compile haste TF32": ("tf32", _by_torch_compile(True, backend="haste")),
    **{f"dense {name}": (name, _ours(name, HasteConfig(enabled=False))) for name in _LIMITS},
    "dense fp32 without Winograd": ("fp32", _ours("fp32", HasteConfig(enabled=False, winograd=0))),
    **{f"HASTE {name}": (name, _ours(name, HasteConfig())) for name in _LIMITS},
}
"""Their precision, and what prepares each for a network and an input."""

_MERGING = {label for label in RUNNERS if "haste" in label.lower()}
"""Those whose outputs differ by what HASTE merges."""


def run(name: str, batch: int, rounds: int, peaks: Peaks) -> Iterator[Timing]:
    """Every runner on one network; at batch 1 also HASTE in every layer against the oracle."""
    model, x = zoo.build(name).cuda(), zoo.example_input(name, batch).cuda()
    with torch.no_grad():
        with tf32(False):
            wanted = _first(model(x))
            with FlopCounterMode(display=False) as counter:
                model(x)
        case = Case(name, batch, model, x, counter.get_total_flops())
        for label, (precision, prepare) in RUNNERS.items():
            yield _time(case, label, precision, prepare, wanted, rounds, peaks)
        if batch == 1:
            with tf32(False):
                oracle = _first(swap_convs(model, _WHOLE)(x))
            every = _ours("fp32", _WHOLE)
            yield _time(case, "HASTE everywhere, against the oracle", "fp32", every, oracle, rounds, peaks)


def _time(case: Case, label: str, precision: str, prepare: Runner, wanted: Tensor, rounds: int, peaks: Peaks) -> Timing:
    """One runner on one case; where it fails, or its outputs are not those that are wanted, the reason."""
    timing = partial(Timing, case.network, case.batch, label, precision)
    try:
        call = prepare(case.model, case.x)
        error = float((_first(call(case.x)) - wanted).norm() / wanted.norm())
        # HASTE's own error is within its tolerance, which the validator judges.
        if error > (1.0 if label in _MERGING else _LIMITS[precision]):
            raise ArithmeticError(f"relative error {error:.1e}")
        taken = seconds(lambda: call(case.x), rounds)
    except Exception as reason:
        return timing(math.nan, math.nan, 0.0, f"{type(reason).__name__}: {reason}")
    return timing(1e3 * taken, error, case.operations / taken / peaks.operations[precision])


def _first(output: Any) -> Tensor:
    found: Tensor = output if isinstance(output, Tensor) else output[0]
    return found


def markdown(timings: Sequence[Timing], peaks: Peaks) -> str:
    """The card's peaks, then a table with a row for each runner."""
    reached = ", ".join(f"{name} {value / 1e12:.1f} TFLOP/s" for name, value in peaks.operations.items())
    lines = [f"Measured peaks: {reached}, copies {peaks.bytes / 1e12:.2f} TB/s", ""]
    lines += ["| network | batch | runner | ms | of the peak | error |", "|---|---|---|---|---|---|"]
    for t in timings:
        numbers = t.failure or f"{t.milliseconds:.3f} | {t.share:.1%} | {t.error:.1e}"
        lines.append(f"| {t.network} | {t.batch} | {t.runner} | {numbers} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
