"""What is compared: this compiler, and what else a user could pick. Each is prepared once and then only called."""

import copy
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._inductor import config as inductor_config

from haste_compiler import HasteConfig


def _same(value: Any) -> Any:
    return value


@dataclass(frozen=True)
class Runner:
    """A prepared network.

    Attributes:
        run: what is timed, from an encoded input to the runner's own kind of output.
        encode: from an input (N, C, H, W) to what `run` takes; not timed.
        decode: from what `run` returns to a tensor; not timed.
        size: bytes of the file or files that the network can be kept in; None where there is no such thing.
    """

    run: Callable[[Any], Any]
    encode: Callable[[Tensor], Any] = _same
    decode: Callable[[Any], Tensor] = _same
    size: Callable[[], int] | None = None


Make = Callable[[nn.Module, Tensor, int], Runner]
"""Prepares a network for inputs of one shape and a number of threads."""


def _without_gradients(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    def run(x: Tensor) -> Tensor:
        with torch.inference_mode():
            return function(x)

    return run


def eager(model: nn.Module, x: Tensor, threads: int) -> Runner:
    """PyTorch as it comes: NCHW."""
    return Runner(_without_gradients(model))


def channels_last(model: nn.Module, x: Tensor, threads: int) -> Runner:
    """PyTorch with weights and input laid out NHWC."""
    laid_out = copy.deepcopy(model).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Runner(_without_gradients(laid_out), lambda t: t.contiguous(memory_format=torch.channels_last))


def inductor(model: nn.Module, x: Tensor, threads: int) -> Runner:
    """`torch.compile` with weights frozen, so that batch norms are folded and weights packed."""
    # The setting must be global: given through `options`, it is gone when the weights would be packed (2.13, four
    # times slower on a ResNet-18), and nothing says so.
    inductor_config.freezing = True
    compiled = torch.compile(model)

    def run(t: Tensor) -> Tensor:
        with torch.no_grad():
            return compiled(t)

    return Runner(run)


def _export_onnx(model: nn.Module, x: Tensor, folder: str) -> str:
    path = Path(folder) / "model.onnx"
    torch.onnx.export(model, (x,), path, dynamo=True, external_data=False, verbose=False)
    return str(path)


def onnx_runtime(model: nn.Module, x: Tensor, threads: int) -> Runner:
    """ONNX Runtime's CPU provider, all graph optimisations on."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    with tempfile.TemporaryDirectory() as folder:
        path = _export_onnx(model, x, folder)
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        size = Path(path).stat().st_size
    name = session.get_inputs()[0].name
    return Runner(lambda a: session.run(None, {name: a})[0], lambda t: t.numpy(), torch.from_numpy, lambda: size)


def openvino(model: nn.Module, x: Tensor, threads: int) -> Runner:
    """OpenVINO's CPU plug-in computing in float32; by itself it would pick bfloat16 where the machine has it."""
    import openvino as ov

    core = ov.Core()
    options = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
    }
    with tempfile.TemporaryDirectory() as folder:
        network = core.read_model(_export_onnx(model, x, folder))
    compiled = core.compile_model(network, "CPU", options)
    request = compiled.create_infer_request()

    def size() -> int:
        with tempfile.TemporaryDirectory() as folder:
            ov.save_model(network, Path(folder) / "model.xml", compress_to_fp16=False)
            return sum(path.stat().st_size for path in Path(folder).iterdir())

    return Runner(
        lambda a: request.infer({0: a}, share_inputs=True, share_outputs=True)[0],
        lambda t: t.numpy(),
        lambda a: torch.from_numpy(a.copy()),
        size,
    )


def ours(config: HasteConfig) -> Make:
    """This compiler with a configuration."""

    def make(model: nn.Module, x: Tensor, threads: int) -> Runner:
        import haste_compiler

        compiled = haste_compiler.compile(model, (x,), target="llvm", config=config, threads=threads)

        def size() -> int:
            with tempfile.TemporaryDirectory() as folder:
                compiled.save(Path(folder) / "network.haste")
                return (Path(folder) / "network.haste").stat().st_size

        return Runner(compiled, size=size)

    return make


PEERS: dict[str, Make] = {
    "eager": eager,
    "channels_last": channels_last,
    "inductor": inductor,
    "onnxruntime": onnx_runtime,
    "openvino": openvino,
}
"""Everything that a user could pick instead, by name."""

OURS: dict[str, HasteConfig | None] = {
    "dense": HasteConfig(enabled=False),
    "haste": HasteConfig(),
    "searched": None,
    "paper": HasteConfig.paper(),
    "haste_everywhere": HasteConfig(cost_model=False, patch_size=28),
}
"""This compiler's configurations, by name; None: what a search found for the network."""

EXACT = (*PEERS, "dense")
"""Runners that must compute what eager PyTorch does; the others approximate it."""

TITLES: dict[str, str] = {
    "eager": "PyTorch, NCHW",
    "channels_last": "PyTorch, channels_last",
    "inductor": "torch.compile, freezing",
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO, f32",
    "dense": "haste-compiler, dense",
    "haste": "haste-compiler, HASTE",
    "searched": "haste-compiler, HASTE, searched",
    "paper": "haste-compiler, published rule",
    "haste_everywhere": "haste-compiler, HASTE everywhere, patch 28",
}


def makers(names: Sequence[str], searched: HasteConfig | None = None) -> dict[str, Make]:
    """What prepares each of some runners.

    Args:
        names: of runners; "searched" is left out where nothing was searched.
        searched: what was found for the network.
    """
    configs = {**OURS, "searched": searched}
    known = {**PEERS, **{name: ours(config) for name, config in configs.items() if config is not None}}
    return {name: known[name] for name in names if name in known}


def thread_environment(threads: int) -> dict[str, str]:
    """Return the environment of a process in which every runner uses so many threads."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "TVM_NUM_THREADS")
    return {**os.environ, **dict.fromkeys(names, str(threads))}
