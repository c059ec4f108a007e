"""Where MODEL may come from, and what is said where it can't."""

from pathlib import Path

import click
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from haste_compiler import HasteError, InputError, OnnxError
from haste_compiler.cli.networks import load_network
from haste_compiler.demo import network as carried
from tests import zoo

FACTORIES = """
import neighbour
import torch

def make():
    return neighbour.Net()

class Add(torch.nn.Module):
    def forward(self, x, y=1):
        return x + y

net = torch.nn.ReLU()
three = lambda: 3
fails = lambda: {}["weights"]
number = 3
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "neighbour.py").write_text("import torch\nclass Net(torch.nn.Dropout): pass\n")
    (tmp_path / "nets.py").write_text(FACTORIES)
    return tmp_path / "nets.py"


def test_factories(file: Path) -> None:
    made = load_network(f"{file}:make", inputs=["2x3"])
    assert type(made.model).__name__ == "Net" and not made.model.training
    made = load_network(f"{file}:Add", inputs=["2x3", "1x3,3:int64"])
    assert [[(tuple(x.shape), x.dtype) for x in example] for example in made.examples] == [
        [((2, 3), torch.float32)],
        [((1, 3), torch.float32), ((3,), torch.int64)],
    ]
    assert isinstance(load_network(f"{file}:net").model, nn.ReLU)
    assert isinstance(load_network("haste_compiler.demo:load_network").model, carried.DigitsResNet)


def test_weights(tmp_path: Path) -> None:
    net = load_network("haste_compiler.demo:DigitsResNet", str(carried.WEIGHTS)).model
    expected = carried.load_network().state_dict()
    for name, value in net.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(value, expected[name])
    save_file({"weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match=r"doesn't fit the network: it lacks .* and has 1 others"):
        load_network("haste_compiler.demo:DigitsResNet", str(tmp_path / "other.safetensors"))


def test_exported_programs(tmp_path: Path) -> None:
    net, x = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval(), torch.randn(2, 3, 8, 8)
    torch.export.save(torch.export.export(net, (x,)), tmp_path / "net.pt2")
    made = load_network(str(tmp_path / "net.pt2"))
    assert torch.equal(made.model(x), net(x)) and made.example[0].shape == x.shape
    (tmp_path / "text.pt2").write_text("a text")
    with pytest.raises(InputError, match=r"text\.pt2 is no exported program"):
        load_network(str(tmp_path / "text.pt2"))


def test_onnx(tmp_path: Path) -> None:
    pytest.importorskip("onnx", reason="the package onnx is not installed: install the dev extra")
    from tests.onnx.models import model, node, value

    made = model([node("Relu", ["x"], ["y"])], [value("x", ("batch", 3, 8, 8))], [value("y", None)])
    (tmp_path / "net.onnx").write_bytes(made.SerializeToString())
    network = load_network(str(tmp_path / "net.onnx"))
    assert network.example[0].shape == (1, 3, 8, 8) and network.model(network.example[0]).min() == 0
    network = load_network(str(tmp_path / "net.onnx"), inputs=["2x3x8x8"])
    assert [example[0].shape for example in network.examples] == [(2, 3, 8, 8)]
    made = model([node("Relu", ["x"], ["y"])], [value("x", (1, 3, "side", None))], [value("y", None)])
    (tmp_path / "open.onnx").write_bytes(made.SerializeToString())
    with pytest.raises(click.UsageError, match=r"Give --input, .*; it declares x: 1x3xsidex\?, float32"):
        assert load_network(str(tmp_path / "open.onnx")).example
    (tmp_path / "text.onnx").write_text("a text")
    with pytest.raises(OnnxError, match=r"text\.onnx is no ONNX network"):
        load_network(str(tmp_path / "text.onnx"))


@pytest.mark.skipif(bool(zoo.missing_torchvision()), reason=zoo.missing_torchvision())
def test_torchvision() -> None:
    zoo.import_torchvision()
    made = load_network("torchvision:resnet18", "random")
    assert type(made.model).__name__ == "ResNet" and made.example[0].shape == (1, 3, 224, 224)
    with pytest.raises(InputError, match=r"no classification network 'resnet81'; did you mean resnet18"):
        load_network("torchvision:resnet81")


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("resnet18", click.UsageError, "MODEL is 'resnet18': allowed are"),
        ("nowhere.pt2", InputError, "there is no file nowhere.pt2"),
        ("nowhere.py:net", InputError, "nowhere.py can't be imported: FileNotFoundError"),
        ("not_a_package:net", InputError, "not_a_package can't be imported: ModuleNotFoundError"),
        ("haste_compiler.demo:load_netwrk", InputError, "has no 'load_netwrk'; did you mean load_network"),
        ("{file}:three", InputError, r"three\(\) returns int: allowed is a torch.nn.Module"),
        ("{file}:fails", InputError, r"fails\(\) fails: KeyError: 'weights' \(.*\.py:\d+; --traceback shows all\)"),
        ("{file}:number", InputError, "number is int: allowed are a function"),
    ],
)
def test_models_that_are_refused(file: Path, name: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        load_network(name.format(file=file))


def test_a_torchvision_of_another_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    def misfit(name: str) -> None:
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr("haste_compiler.cli.networks.importlib.import_module", misfit)
    with pytest.raises(HasteError, match=r"nms does not exist; .* for another PyTorch .* 'torchvision==0\.\d+\.\*'"):
        load_network("torchvision:resnet18")


def test_a_package_that_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    with pytest.raises(HasteError, match=r"timm:NAME needs timm: `pip install timm`"):
        load_network("timm:resnet18")


@pytest.mark.parametrize("text", ["", "3x", "1x3x224x224:floaty", "axb"])
def test_inputs_that_are_refused(text: str) -> None:
    with pytest.raises(click.UsageError, match="--input"):
        load_network("haste_compiler.demo:load_network", inputs=[text])


@pytest.mark.parametrize(
    ("weights", "message"), [("weights.pth", "allowed are a .safetensors"), ("no.safetensors", "there is no file")]
)
def test_weights_that_are_refused(weights: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_network("haste_compiler.demo:load_network", weights)


def test_an_input_that_the_network_does_not_take() -> None:
    message = r"--input 1x3x32x32: input 0 has shape \(1, 3, 32, 32\): layer 'stem.0' takes \(N, 1, H, W\)"
    with pytest.raises(InputError, match=message):
        load_network("haste_compiler.demo:load_network", inputs=["1x3x32x32"])


def test_no_input_is_known() -> None:
    with pytest.raises(click.UsageError, match="Give --input"):
        _ = load_network("haste_compiler.demo:load_network").example
