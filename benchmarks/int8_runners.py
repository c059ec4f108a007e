"""Prepare a network in int8 as a user would: quantized after training by what OpenVINO, ONNX Runtime and PyTorch offer.

All are calibrated on the same calls. Each takes what its documentation advises for the processor at hand.
"""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.runners import Make, Runner, compile_frozen, export_onnx, onnx_session, openvino_request, read_openvino

Calls = Callable[[], Sequence[Tensor]]
"""Returns calls (N, C, H, W), of the shape that is run, for the calibration; called when a network is prepared."""

_ATTENTION = {"Softmax", "ScaledDotProductAttention"}
"""OpenVINO's operators that attention is made of."""


def is_x86() -> bool:
    """Whether this processor is one."""
    return bool(torch.cpu.get_capabilities()["architecture"] == "x86_64")


def overflows() -> bool:
    """Whether sums of two products of bytes overflow 16 bits on this processor: x86 without VNNI.

    All three libraries have weights of 7 bits for it. With 8 a trained ResNet-18's output errors are 0.41 to 0.45.
    """
    features = torch.cpu.get_capabilities()
    return is_x86() and not (features["avx512_vnni"] or features["avx_vnni"])


def openvino(calibrating: Calls) -> Make:
    """OpenVINO, quantized by NNCF with its usual preset; networks with attention as NNCF's type for them."""

    def make(model: nn.Module, x: Tensor, threads: int) -> Runner:
        import nncf

        network, calls = read_openvino(model, x), calibrating()
        attention = any(operator.get_type_name() in _ATTENTION for operator in network.get_ops())
        # By itself NNCF keeps the first layer alone from overflowing, which isn't enough: EfficientNet-Lite0's error is
        # 0.27 then, and 0.19 with all layers.
        fix = nncf.OverflowFix.ENABLE if overflows() else nncf.OverflowFix.FIRST_LAYER
        quantized = nncf.quantize(
            network,
            nncf.Dataset(calls, lambda call: call.numpy()),
            subset_size=len(calls),
            model_type=nncf.ModelType.TRANSFORMER if attention else None,
            advanced_parameters=nncf.AdvancedQuantizationParameters(overflow_fix=fix),
        )
        return openvino_request(quantized, threads)

    return make


class _Reader:
    """Calls as ONNX Runtime's calibration reads them.

    Args:
        name: of the network's input.
        calls: (N, C, H, W) each.
    """

    def __init__(self, name: str, calls: Sequence[Tensor]) -> None:
        self._feeds: Iterator[dict[str, Any]] = iter({name: call.numpy()} for call in calls)

    def get_next(self) -> dict[str, Any] | None:
        """The next call; None after the last one."""
        return next(self._feeds, None)


def onnx_runtime(calibrating: Calls) -> Make:
    """ONNX Runtime, quantized by its own static quantization: QDQ, a scale for each channel of the weights."""

    def make(model: nn.Module, x: Tensor, threads: int) -> Runner:
        import onnx
        from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
        from onnxruntime.quantization.shape_inference import quant_pre_process

        with tempfile.TemporaryDirectory() as folder:
            exported, prepared, quantized = (
                export_onnx(model, x, folder),
                Path(folder) / "p.onnx",
                Path(folder) / "q.onnx",
            )
            quant_pre_process(exported, prepared)
            reader = _Reader(onnx.load(prepared).graph.input[0].name, calibrating())
            quantize_static(
                prepared,
                quantized,
                reader,
                quant_format=QuantFormat.QDQ,
                # On x86 signed ones take four times as long.
                activation_type=QuantType.QUInt8 if is_x86() else QuantType.QInt8,
                weight_type=QuantType.QInt8,
                per_channel=True,
                reduce_range=overflows(),
            )
            return onnx_session(quantized, threads)

    return make


def inductor(calibrating: Calls) -> Make:
    """`torch.compile`, weights frozen, of a network that PyTorch's PT2E quantized for Inductor on x86."""

    def make(model: nn.Module, x: Tensor, threads: int) -> Runner:
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
        from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

        quantizer = x86.X86InductorQuantizer()
        quantizer.set_global(x86.get_default_x86_inductor_quantization_config(reduce_range=overflows()))
        with torch.no_grad():
            observed = prepare_pt2e(torch.export.export(model, (x,)).module(), quantizer)
            for call in calibrating():
                observed(call)
            quantized = convert_pt2e(observed)
        return compile_frozen(quantized)

    return make
