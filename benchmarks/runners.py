"""Prepare a network as a user would, in float32: by PyTorch, ONNX Runtime, OpenVINO, or this compiler."""

import copy
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._inductor import config as inductor_config


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
    """`torch.compile`."""
    return compile_frozen(model)


def compile_frozen(model: nn.Module) -> Runner:
    """`torch.compile` with weights frozen, so that batch norms are folded and weights packed."""
    # The setting must be global: given through `options`, it is gone when the weights would be packed (2.13, four
    # times slower on a ResNet-18), and nothing says so.
    inductor_config.freezing = True
    compiled = torch.compile(model)

    def run(t: Tensor) -> Tensor:
        with torch.no_grad():
            return compiled(t)

    return Runner(run)


def export_onnx(model: nn.Module, x: Tensor, folder: str) -> Path:
    """Write a network as an ONNX file into a folder."""
    path = Path(folder) / "model.onnx"
    torch.onnx.export(model, (x,), path, dynamo=True, external_data=False, verbose=False)
    return path


def onnx_runtime(model: nn.Module, x: Tensor, threads: int) -> Runner:
    """ONNX Runtime from an ONNX export."""
    with tempfile.TemporaryDirectory() as folder:
        return onnx_session(export_onnx(model, x, folder), threads)


def onnx_session(path: Path, threads: int) -> Runner:
    """ONNX Runtime's CPU provider on a file, all graph optimisations on."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    size, name = path.stat().st_size, session.get_inputs()[0].name
    return Runner(lambda a: session.run(None, {name: a})[0], lambda t: t.numpy(), torch.from_numpy, lambda: size)


def openvino(model: nn.Module, x: Tensor, threads: int) -> Runner:
    """OpenVINO from an ONNX export."""
    return openvino_request(read_openvino(model, x), threads)


def read_openvino(model: nn.Module, x: Tensor) -> Any:
    """A network as OpenVINO's, from an ONNX export."""
    import openvino as ov

    with tempfile.TemporaryDirectory() as folder:
        return ov.Core().read_model(export_onnx(model, x, folder))


def openvino_request(network: Any, threads: int) -> Runner:
    """OpenVINO's CPU plug-in; what isn't quantized is float32, not bfloat16 as it would be by itself."""
    import openvino as ov

    options = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
    }
    compiled = ov.Core().compile_model(network, "CPU", options)
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


def ours(**options: Any) -> Make:
    """This compiler with options of ``haste_compiler.compile``."""

    def make(model: nn.Module, x: Tensor, threads: int) -> Runner:
        import haste_compiler

        compiled = haste_compiler.compile(model, (x,), target="llvm", threads=threads, **options)

        def size() -> int:
            with tempfile.TemporaryDirectory() as folder:
                compiled.save(Path(folder) / "network.haste")
                return (Path(folder) / "network.haste").stat().st_size

        return Runner(compiled, size=size)

    return make


def thread_environment(threads: int) -> dict[str, str]:
    """Return the environment of a process in which every runner uses so many threads."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "TVM_NUM_THREADS")
    return {**os.environ, **dict.fromkeys(names, str(threads))}
