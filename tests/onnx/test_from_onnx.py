"""``from_onnx`` by networks made by hand, against ONNX Runtime; and what it refuses."""

from __future__ import annotations

import copy
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

onnx = pytest.importorskip("onnx", reason="the package onnx is not installed: install the dev extra")
onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: install the dev extra")

# ruff: noqa: E402
from onnx import ModelProto, TensorProto, helper, numpy_helper

import haste_compiler
from haste_compiler import InputError, OnnxError, UnsupportedOperatorError, from_onnx
from tests.onnx.models import model, node, random, value


def reference(made: ModelProto, *inputs: Tensor) -> list[Tensor]:
    session = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]
    arrays = session.run(None, dict(zip(names, (x.numpy() for x in inputs), strict=True)))
    return [torch.from_numpy(np.asarray(array)) for array in arrays]


def check(made: ModelProto, *inputs: Tensor, export: bool = True) -> haste_compiler.OnnxNetwork:
    """The network is as ONNX Runtime says, and can be exported: what depends on no value is a number."""
    network, expected = from_onnx(made), reference(made, *inputs)
    found = network(*inputs)
    for ours, theirs in zip(found if isinstance(found, tuple) else (found,), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    if export:
        exported = torch.export.export(network, inputs).module()(*inputs)
        torch.testing.assert_close(exported, found)
    return network


def one(
    op: str, shape: tuple[int, ...], weights: dict[str, Any] | None = None, opset: int = 20, **how: Any
) -> ModelProto:
    made = node(op, ["x", *(weights or {})], ["y"], "it", **how)
    return model([made], [value("x", shape)], [value("y", None)], weights, opset)


@pytest.mark.parametrize("size", [(10, 14), (10, 7)])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("mode", ["SAME_UPPER", "SAME_LOWER", "VALID"])
def test_padding_that_is_given_by_the_outputs_size(mode: str, stride: int, size: tuple[int, int]) -> None:
    x = torch.randn(2, 3, *size)
    how: dict[str, Any] = {"auto_pad": mode, "strides": [stride, stride]}
    check(one("Conv", (2, 3, *size), {"w": random(4, 3, 3, 2)}, kernel_shape=[3, 2], **how), x)
    check(one("MaxPool", (2, 3, *size), kernel_shape=[3, 2], **how), x)
    check(one("AveragePool", (2, 3, *size), kernel_shape=[3, 2], **how), x)


@pytest.mark.parametrize("mode", ["SAME_UPPER", "SAME_LOWER"])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (4, 2), (5, 3)])
def test_transposed_convolutions_whose_output_is_a_multiple(mode: str, kernel: int, stride: int) -> None:
    made = one("ConvTranspose", (1, 3, 5, 6), {"w": random(3, 2, kernel, kernel)}, auto_pad=mode, strides=[stride] * 2)
    weight = torch.from_numpy(random(3, 2, kernel, kernel))
    x = torch.randn(1, 3, 5, 6)
    full, total = nn.functional.conv_transpose2d(x, weight, stride=stride), kernel - stride
    begin = total // 2 if mode == "SAME_UPPER" else total - total // 2
    expected = full[:, :, begin : begin + 5 * stride, begin : begin + 6 * stride]
    torch.testing.assert_close(from_onnx(made)(x), expected)


def test_unequal_padding_and_groups() -> None:
    x = torch.randn(1, 4, 9, 9)
    weights = {"w": random(8, 2, 3, 3), "b": random(8)}
    network = check(one("Conv", (1, 4, 9, 9), weights, pads=[0, 1, 2, 0], group=2, dilations=[1, 2]), x)
    assert isinstance(network.it, nn.Conv2d) and network.it.groups == 2
    made = one("ConvTranspose", (1, 4, 9, 9), {"w": random(4, 3, 3, 3)}, pads=[0, 1, 2, 0], strides=[2, 2])
    weight = torch.from_numpy(random(4, 3, 3, 3))
    torch.testing.assert_close(
        from_onnx(made)(x), nn.functional.conv_transpose2d(x, weight, stride=2)[:, :, : -2 or None, 1:]
    )


@pytest.mark.parametrize("scales", [(2.0, 2.0), (1.5, 0.6), (0.5, 3.0)])
@pytest.mark.parametrize("coordinates", ["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"])
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_resizing_by_scales(mode: str, coordinates: str, scales: tuple[float, float]) -> None:
    weights = {"roi": np.zeros(0, np.float32), "scales": np.array([1, 1, *scales], np.float32)}
    how: dict[str, Any] = {"mode": mode, "coordinate_transformation_mode": coordinates}
    check(one("Resize", (2, 3, 6, 10), weights, **how), torch.randn(2, 3, 6, 10))


@pytest.mark.parametrize("rounding", ["floor", "ceil", "round_prefer_floor", "round_prefer_ceil"])
@pytest.mark.parametrize("sizes", [(12, 20), (4, 15)])
def test_resizing_to_sizes(rounding: str, sizes: tuple[int, int]) -> None:
    made = model(
        [node("Resize", ["x", "", "", "sizes"], ["y"], mode="nearest", nearest_mode=rounding)],
        [value("x", (1, 3, 6, 10))],
        [value("y", None)],
        {"sizes": np.array([1, 3, *sizes])},
    )
    check(made, torch.randn(1, 3, 6, 10))


def test_resizing_to_the_size_of_another_image() -> None:
    # What exporters write for interpolate(x, size=other.shape[2:]).
    made = model(
        [
            node("Shape", ["other"], ["shape"]),
            node("Slice", ["shape", "two", "four"], ["wanted"]),
            node("Shape", ["x"], ["own"]),
            node("Slice", ["own", "zero", "two"], ["kept"]),
            node("Concat", ["kept", "wanted"], ["sizes"], axis=0),
            node("Resize", ["x", "", "", "sizes"], ["y"], mode="linear"),
        ],
        [value("x", ("n", 3, "h", "w")), value("other", ("n", 3, "H", "W"))],
        [value("y", None)],
        {"zero": np.array([0]), "two": np.array([2]), "four": np.array([4])},
    )
    check(made, torch.randn(1, 3, 5, 4), torch.randn(1, 3, 10, 12))


@pytest.mark.parametrize("opset", [7, 9])
def test_upsample(opset: int) -> None:
    scales = np.array([1, 1, 2, 3], np.float32)
    made = (
        one("Upsample", (1, 2, 3, 4), opset=7, mode="nearest", scales=scales.tolist())
        if opset == 7
        else one("Upsample", (1, 2, 3, 4), {"scales": scales}, opset=9, mode="nearest")
    )
    x = torch.randn(1, 2, 3, 4)
    assert torch.equal(from_onnx(made)(x), x.repeat_interleave(2, 2).repeat_interleave(3, 3))


def test_the_norm_of_planes() -> None:
    x = torch.randn(2, 3, 4, 5)
    found = from_onnx(one("GlobalLpPool", (2, 3, 4, 5), p=2))(x)
    torch.testing.assert_close(found, x.flatten(2).norm(dim=2)[:, :, None, None])


def test_scatter_of_old_versions() -> None:
    weights = {"i": np.array([[1, 0]]), "u": np.array([[5, 6]], np.float32)}
    found = from_onnx(one("Scatter", (2, 2), weights, opset=9, axis=0))(torch.zeros(2, 2))
    assert found.tolist() == [[0, 6], [5, 0]]


NODE = "/features/features.0/Conv"


def flattening(batch: int | str | None) -> ModelProto:
    """x.reshape(x.size(0), -1) @ w, as exporters write it."""
    return model(
        [
            node("Conv", ["x", "f"], ["c"], NODE, pads=[1, 1, 1, 1]),
            node("Shape", ["c"], ["shape"]),
            node("Gather", ["shape", "first"], ["size"], axis=0),
            node("Unsqueeze", ["size", "axes"], ["sizes"]),
            node("Concat", ["sizes", "rest"], ["to"], axis=0),
            node("Reshape", ["c", "to"], ["flat"]),
            node("Gemm", ["flat", "w", "b"], ["y"], "/head/Gemm", transB=1),
        ],
        [value("x", (batch, 3, 4, 4))],
        [value("y", (batch, 5))],
        {
            "f": random(2, 3, 3, 3),
            "first": np.array(0),
            "axes": np.array([0]),
            "rest": np.array([-1]),
            "w": random(5, 32),
            "b": random(5),
        },
    )


def test_shape_arithmetic_and_any_batch() -> None:
    network = check(flattening("batch"), torch.randn(2, 3, 4, 4))
    assert network(torch.randn(7, 3, 4, 4)).shape == (7, 5)
    dim = torch.export.Dim("batch", min=2, max=16)
    program = torch.export.export(network, (torch.randn(4, 3, 4, 4),), dynamic_shapes=(({0: dim}),))
    x = torch.randn(9, 3, 4, 4)
    torch.testing.assert_close(program.module()(x), network(x))


def test_layers_bear_their_nodes_names() -> None:
    network = from_onnx(flattening(1))
    assert isinstance(network.get_submodule("features.0"), nn.Conv2d) and isinstance(network.head, nn.Linear)
    assert network.layer_names["head"] == "/head/Gemm" and network.layer_names["features.0"] == NODE


def test_declared_inputs_and_examples() -> None:
    network = from_onnx(flattening("batch"))
    assert [str(each) for each in network.inputs] == ["x: batchx3x4x4, float32"]
    assert network.outputs[0].shape == ("batch", 5)
    assert network.example_inputs()[0].shape == (1, 3, 4, 4)
    assert network.example_inputs(batch=6)[0].shape == (6, 3, 4, 4)
    made = model([node("Relu", ["x"], ["y"])], [value("x", ("n", 3, "side", None))], [value("y", None)])
    network = from_onnx(made)
    with pytest.raises(InputError, match=r"leaves 'side', axis 2 of 'x' open .*sizes=\{'side': \.\.\.\}"):
        network.example_inputs()
    with pytest.raises(InputError, match=r"leaves axis 3 of 'x' open"):
        network.example_inputs(sizes={"side": 8})
    assert network.example_inputs(sizes={"x": (2, 3, 8, 9)})[0].shape == (2, 3, 8, 9)
    assert torch.equal(
        copy.deepcopy(network).example_inputs(sizes={"x": (2,)})[0], network.example_inputs(sizes={"x": (2,)})[0]
    )


def test_names_of_any_characters() -> None:
    made = model(
        [
            node("Conv", ["in:put/0.x", "w.0/γ"], ["a b"], "lambda"),
            node("Conv", ["a b", "w.0/γ"], ["t::1"], "ключ"),
            node("Conv", ["t::1", "w.0/γ"], ["0"], ""),
            node("Conv", ["0", "w.0/γ"], ["import"], "lambda!"),
            node("Add", ["import", "float"], ["out.y"], "weird name!"),
        ],
        [value("in:put/0.x", (1, 2, 4, 4))],
        [value("out.y", None)],
        {"w.0/γ": random(2, 2, 1, 1), "float": random(2, 1, 1)},
    )
    network = check(made, torch.randn(1, 2, 4, 4))
    assert list(network.layer_names.values()) == ["lambda", "ключ", "0", "lambda!"]


def test_weights_that_are_listed_as_inputs() -> None:
    made = one("Conv", (1, 3, 8, 8), {"w": random(4, 3, 3, 3)})
    made.graph.input.append(value("w", (4, 3, 3, 3)))
    network = from_onnx(made)
    assert [each.name for each in network.inputs] == ["x"]
    assert network(torch.randn(1, 3, 8, 8)).shape == (1, 4, 6, 6)


def test_large_weights_beside_the_file(tmp_path: Path) -> None:
    made, x = one("Conv", (1, 64, 8, 8), {"w": random(64, 64, 3, 3)}), torch.randn(1, 64, 8, 8)
    expected = from_onnx(made)(x)
    onnx.save(made, tmp_path / "net.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert torch.equal(from_onnx(tmp_path / "net.onnx")(x), expected)
    light = onnx.load(tmp_path / "net.onnx", load_external_data=False)
    with pytest.raises(OnnxError, match="keeps weights in other files: give the path"):
        from_onnx(light)
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(OnnxError, match=r"net\.onnx is no ONNX network, or is damaged: .*weights.bin"):
        from_onnx(tmp_path / "net.onnx")


def test_weights_behind_other_operators_are_constants() -> None:
    made = model(
        [
            node("Transpose", ["w"], ["t"], perm=[3, 2, 0, 1]),
            node("Identity", ["t"], ["i"]),
            node("DequantizeLinear", ["q", "s"], ["b"]),
            node("Conv", ["x", "i", "b"], ["y"], "conv"),
        ],
        [value("x", (1, 3, 8, 8))],
        [value("y", None)],
        {"w": random(3, 3, 3, 4), "q": np.array([1, -2, 3, 4], np.int8), "s": np.float32(0.5)},
    )
    network = check(made, torch.randn(1, 3, 8, 8))
    assert network.get_parameter("conv.bias").tolist() == [0.5, -1, 1.5, 2]


@pytest.mark.parametrize("condition", [True, False])
def test_branches_of_a_constant_condition(condition: bool) -> None:
    def branch(op: str) -> Any:
        weights = [numpy_helper.from_array(np.array([3], np.float32), "three")]
        return helper.make_graph([node(op, ["x", "three"], ["z"])], op, [], [value("z", None)], weights)

    made = model(
        [node("If", ["c"], ["y"], then_branch=branch("Add"), else_branch=branch("Mul"))],
        [value("x", (2, 2))],
        [value("y", None)],
        {"c": np.array(condition)},
    )
    x = torch.randn(2, 2)
    assert torch.equal(from_onnx(made)(x), x + 3 if condition else x * 3)


def test_branches_that_depend_on_a_known_size() -> None:
    # What exporters write for squeeze().
    def branch(op: str) -> Any:
        return helper.make_graph([node(op, ["x"], ["z"])], op, [], [value("z", None)])

    made = model(
        [
            node("Shape", ["x"], ["shape"]),
            node("Gather", ["shape", "one"], ["size"], axis=0),
            node("Equal", ["size", "one"], ["c"]),
            node("If", ["c"], ["y"], then_branch=branch("Relu"), else_branch=branch("Neg")),
        ],
        [value("x", (2, 1, 4))],
        [value("y", None)],
        {"one": np.array(1)},
    )
    x = torch.randn(2, 1, 4)
    assert torch.equal(from_onnx(made)(x), x.relu())


def test_half_precision() -> None:
    weights = {"w": random(4, 3, 3, 3).astype(np.float16), "b": random(4).astype(np.float16)}
    made = model(
        [node("Cast", ["x"], ["h"], to=TensorProto.FLOAT16), node("Conv", ["h", "w", "b"], ["y"], "conv")],
        [value("x", (1, 3, 8, 8), TensorProto.FLOAT16)],
        [value("y", None, TensorProto.FLOAT16)],
        weights,
    )
    x = torch.randn(1, 3, 8, 8)
    network, single = from_onnx(made), from_onnx(made, single=True)
    assert network(x.half()).dtype == torch.float16 and network.inputs[0].dtype == torch.float16
    assert single(x).dtype == torch.float32 and single.inputs[0].dtype == torch.float32
    torch.testing.assert_close(network(x.half()).float(), single(x), rtol=2e-2, atol=2e-2)


def test_functions_of_the_network() -> None:
    function = helper.make_function(
        "mine", "twice", ["a"], ["b"], [node("Add", ["a", "a"], ["b"])], [helper.make_opsetid("", 20)]
    )
    made = model([helper.make_node("twice", ["x"], ["y"], domain="mine")], [value("x", (2,))], [value("y", None)])
    made.functions.append(function)
    made.opset_import.append(helper.make_opsetid("mine", 1))
    assert from_onnx(made)(torch.ones(2)).tolist() == [2, 2]


@pytest.mark.parametrize(("alpha", "beta"), [(0.2, 0.5), (1 / 6, 0.5), (0.3, 0.1)])
def test_slopes_of_hard_sigmoids(alpha: float, beta: float) -> None:
    check(one("HardSigmoid", (3, 50), alpha=alpha, beta=beta), 4 * torch.randn(3, 50))


@pytest.mark.parametrize("opset", [7, 8, 9, 10, 11, 12, 13, 15, 18, 20, 21, 23])
def test_versions(opset: int) -> None:
    weights = {"w": random(4, 3, 3, 3), "s": random(4), "b": random(4), "m": random(4), "v": np.abs(random(4))}
    made = model(
        [
            node("Conv", ["x", "w"], ["c"], "conv"),
            node("BatchNormalization", ["c", "s", "b", "m", "v"], ["n"]),
            node("Relu", ["n"], ["r"]),
            node("GlobalAveragePool", ["r"], ["p"]),
            node("Flatten", ["p"], ["f"]),
            node("Softmax", ["f"], ["y"], axis=1),
        ],
        [value("x", (2, 3, 8, 8))],
        [value("y", None)],
        weights,
        opset,
    )
    check(made, torch.randn(2, 3, 8, 8))


def test_all_unknown_operators_are_named_at_once() -> None:
    made = model(
        [
            node("NonZero", ["x"], ["places"], "find"),
            node("LSTM", ["x", "w", "r"], ["", "h"], "memory", hidden_size=1),
            helper.make_node("Odd", ["h"], ["o"], name="/odd/Odd", domain="com.example"),
            node("NonZero", ["o"], ["y"], "find again"),
        ],
        [value("x", (1, 1, 1)), value("w", (1, 4, 1)), value("r", (1, 4, 1))],
        [value("places", None, TensorProto.INT64), value("y", None, TensorProto.INT64)],
    )
    made.opset_import.append(helper.make_opsetid("com.example", 1))
    with pytest.raises(UnsupportedOperatorError) as raised:
        from_onnx(made)
    for part in (
        "NonZero (version 13): its result's size depends on values; at 'find', 'find again'",
        "LSTM (version 14): recurrent layers aren't known; at 'memory'",
        "com.example.Odd; at '/odd/Odd'",
    ):
        assert part in str(raised.value)


def test_uses_that_are_not_known() -> None:
    made = model(
        [node("Reshape", ["x", "shape"], ["y"], "moved")],
        [value("x", (4,)), value("shape", (2,), TensorProto.INT64)],
        [value("y", None)],
    )
    with pytest.raises(
        UnsupportedOperatorError, match=r"Reshape .*input 1 .* depends on the network's inputs; at 'moved'"
    ):
        from_onnx(made)


@pytest.mark.parametrize("content", [b"", b"a text, no network", b"\x00" * 100, None])
def test_files_that_are_no_networks(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    whole = one("Conv", (1, 3, 8, 8), {"w": random(4, 3, 3, 3)}).SerializeToString()
    path.write_bytes(whole[: len(whole) // 2] if content is None else content)
    with pytest.raises(OnnxError, match=re.escape(str(path))):
        from_onnx(path)


def test_what_is_refused() -> None:
    with pytest.raises(OnnxError, match=r"there is no file nowhere\.onnx"):
        from_onnx("nowhere.onnx")
    with pytest.raises(OnnxError, match=r"takes a path or an onnx\.ModelProto, not int"):
        from_onnx(3)  # type: ignore[arg-type]
    with pytest.raises(OnnxError, match=r"has opset 6; .* convert it by onnx\.version_converter"):
        from_onnx(one("Relu", (2,), opset=6))
    with pytest.raises(OnnxError, match=r"has opset 99; .* update the package onnx"):
        from_onnx(one("Relu", (2,), opset=99))
    lost = model([node("Add", ["x", "nothing"], ["y"], "sum")], [value("x", (2,))], [value("y", None)])
    with pytest.raises(OnnxError, match="Add 'sum' reads 'nothing', which nothing before it writes"):
        from_onnx(lost)
    short = one("Gemm", (1, 4), {"w": random(4)})
    with pytest.raises(OnnxError, match="Gemm 'it' can't be read"):
        from_onnx(short)


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(OnnxError, match=r'pip install "haste-compiler\[onnx\]"'):
        from_onnx("net.onnx")
