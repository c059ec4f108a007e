"""Every command on the carried network: what it prints, what it writes, its exit code."""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

import haste_compiler
from haste_compiler import HasteConfig
from haste_compiler.cache import entries as cache_entries
from haste_compiler.demo import load_network
from tests.cli.conftest import Haste
from tests.methods.haste.networks import redundant_images

NETWORK = ("haste_compiler.demo:load_network", "--input", "2x1x32x32", "--threads", "1")
MODEL = (*NETWORK, "--no-cost-model")
HASTE_LAYERS = ["blocks.0.conv1", "blocks.0.conv2", "blocks.1.conv2", "blocks.2.conv1", "blocks.2.conv2"]


@pytest.fixture
def file(haste: Haste, tmp_path: Path) -> Path:
    code, _, _ = haste("compile", *MODEL, "-o", tmp_path / "net.haste")
    assert code == 0
    return tmp_path / "net.haste"


def test_compile(haste: Haste, tmp_path: Path, digits: Path) -> None:
    path = tmp_path / "net.haste"
    code, out, err = haste("compile", *MODEL, "--tolerance", 0.2, "-o", path, "--json")
    found = json.loads(out)
    assert code == 0 and "compiling haste_compiler.demo:load_network for 2x1x32x32" in err
    assert found["haste"] == HASTE_LAYERS and found["convolutions"] == 8 and found["threads"] == 1
    assert found["bytes"] == path.stat().st_size and found["config"]["tolerance"] == 0.2
    loaded, x = haste_compiler.load(path), torch.from_numpy(np.load(digits)["images"][:2])
    compiled = haste_compiler.compile(
        load_network(), (x,), config=HasteConfig(tolerance=0.2, cost_model=False), threads=1
    )
    assert loaded.tolerance == 0.2 and torch.equal(loaded(x), compiled(x))


def test_compile_several_signatures(haste: Haste, tmp_path: Path) -> None:
    path = tmp_path / "net.haste"
    code, out, _ = haste("compile", *NETWORK, "--input", "1x1x32x32", "--preset", "dense", "-o", path)
    assert code == 0 and "0 of 8 convolutions HASTE" in out
    assert haste_compiler.load(path).shapes == [((2, 1, 32, 32),), ((1, 1, 32, 32),)]


def test_validate_holds(haste: Haste, digits: Path) -> None:
    arguments = ("validate", *MODEL, "--images", digits, "--no-time", "--max-rel-error", 0.5)
    code, out, err = haste(*arguments, "--json")
    report = json.loads(out)
    assert code == 0 and report["missed"] is None and "validating on 4 images" in err
    assert 0 < report["max_rel_error"] < 0.5 and report["images"] == 4 and report["batches"] == 2
    assert report["accuracy"]["original"] == 1.0 and report["times"] is None
    code, out, _ = haste(*arguments)
    assert code == 0 and out.startswith("Validation on 4 images in 2 calls") and "blocks.0.conv1" in out


@pytest.mark.parametrize(
    ("limit", "value", "message"),
    [
        ("--max-rel-error", 1e-9, "max_rel_error is"),
        ("--min-mac-reduction", 0.999, "mac_reduction is"),
        ("--min-speedup", 1000, "speedup is"),
    ],
)
def test_validate_falls_short(haste: Haste, digits: Path, limit: str, value: float, message: str) -> None:
    time = ["--rounds", 1] if limit == "--min-speedup" else ["--no-time"]
    code, out, err = haste("validate", *MODEL, "--images", digits, *time, limit, value, "--json")
    missed = json.loads(out)["missed"]
    assert code == 1 and missed.startswith(message)
    said = missed.replace("max_rel_error", "--max-rel-error")
    assert err.splitlines()[-1] == f"error: {said}"


def test_validate_a_saved_network(haste: Haste, file: Path, digits: Path) -> None:
    arguments = ("validate", *NETWORK[:3], "--images", digits, "--artifact", file)
    code, out, _ = haste(*arguments, "--json")
    fresh = haste("validate", *MODEL, "--images", digits, "--no-time", "--json")[1]
    assert code == 0 and json.loads(out)["outputs"] == json.loads(fresh)["outputs"]
    code, out, err = haste(*arguments, "--tolerance", 0.2, "--threads", 1, "--rounds", 10)
    expected = "error: --artifact is compiled already: it doesn't go with --rounds, --tolerance, --threads (see"
    assert code == 2 and not out and err.startswith(expected)


def test_limits_of_the_project(haste: Haste, digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.haste]\nmax_rel_error = 1e-9\nmin_speedup = 100\n")
    monkeypatch.chdir(tmp_path)
    arguments = ("validate", *MODEL, "--images", digits, "--no-time")
    code, _, err = haste(*arguments)
    assert code == 1 and f"max_rel_error from {tmp_path / 'pyproject.toml'}" in err
    assert err.splitlines()[-1].startswith("error: --max-rel-error is ")
    code, _, err = haste(*arguments, "--max-rel-error", 0.5)
    assert code == 0 and "pyproject.toml" not in err
    code, out, err = haste(*arguments, "--min-speedup", 1)
    assert code == 2 and not out and "--min-speedup needs times" in err


def test_junit(haste: Haste, digits: Path, tmp_path: Path) -> None:
    path = tmp_path / "report.xml"
    arguments = ("validate", *MODEL, "--images", digits, "--no-time", "--junit-xml", path)
    assert haste(*arguments, "--max-rel-error", 0.5, "--min-mac-reduction", 0.999)[0] == 1
    (suite,) = ElementTree.parse(path).getroot()
    cases = {case.attrib["name"]: [child.tag for child in case] for case in suite.findall("testcase")}
    assert cases == {
        "output float32(2, 10)": ["system-out"],
        "max_rel_error at most 0.5": ["system-out"],
        "mac_reduction at least 0.999": ["failure", "system-out"],
    }
    assert "blocks.0.conv1" in str(suite.findtext("system-out"))
    assert haste(*arguments, "--images", tmp_path / "absent")[0] == 2
    (suite,) = ElementTree.parse(path).getroot()
    assert suite.attrib["errors"] == "1" and "allowed are a folder" in str(suite.findtext("testcase/error"))
    code, _, err = haste(*arguments[:-1], tmp_path / "absent" / "report.xml")
    assert code == 2 and "there is no folder" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--max-rel-error", "-1"), "--max-rel-error must be at least 0, not -1"),
        (("--min-agreement", "95"), "--min-agreement must be at most 1, which is all, not 95"),
        (("--labels", "absent.txt"), "Invalid value for '--labels': File 'absent.txt' does not exist"),
        (("--images", "absent"), "--images absent: allowed are a folder, an .npz file and random"),
        (("--input", "0x1x32x32"), "--input '0x1x32x32': allowed are sizes such as 1x3x224x224"),
        (("--limit", "0"), "Invalid value for '--limit': 0 is not in the range x>=1"),
        (("--tolerance", "nan"), "--tolerance must be finite and at least 0"),
        (("--frobnicate",), "No such option '--frobnicate'"),
    ],
)
def test_what_is_refused_before_anything_is_compiled(haste: Haste, arguments: tuple[str, ...], message: str) -> None:
    code, out, err = haste("validate", *MODEL, "--images", "random", *arguments)
    assert code == 2 and not out and "compiling" not in err
    assert err.startswith(f"error: {message}") and err.count("\n") == 1


def test_nothing_asked_for(haste: Haste) -> None:
    code, out, err = haste()
    assert code == 2 and not out and err.startswith("Usage: haste") and "\n  validate " in err


def test_info_of_what_is_not_there(haste: Haste) -> None:
    code, _, err = haste("info", "absent.haste")
    assert code == 2 and err == "error: there is no file absent.haste\n"


@pytest.mark.parametrize("limit", ["nan", "much", ""])
def test_limits_that_are_no_numbers(haste: Haste, limit: str) -> None:
    code, _, err = haste("validate", *MODEL, "--images", "random", "--max-rel-error", limit)
    assert code == 2 and f"Invalid value for '--max-rel-error': {limit!r} is no number" in err


def test_validate_on_made_up_images(haste: Haste) -> None:
    code, out, _ = haste("validate", *MODEL, "--images", "random", "--limit", 2, "--no-time", "--json")
    assert code == 0 and json.loads(out)["images"] == 2


SMALL = """
from torch import nn

def net():
    return nn.Sequential(nn.Conv2d(8, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
"""


def test_validate_compiles_for_what_is_left_over_too(
    haste: Haste, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Calls would wait for the compiler and warn of it, with advice for those who call it from Python."""
    (tmp_path / "nets.py").write_text("from torch import nn\n\nnet = nn.Sequential(nn.Conv2d(16, 16, 3))\n")
    model = (f"{tmp_path / 'nets.py'}:net", "--input", "2x16x9x9", "--threads", 1, "--no-cost-model")
    for limit in (1, 3):
        arguments = ("--images", "random", "--limit", limit, "--rounds", 1, "--json")
        code, out, _ = haste("validate", *model, *arguments)
        assert code == 0 and json.loads(out)["images"] == limit
    assert not [message for message in caplog.messages if "compiling" in message]


def test_validate_an_exported_program(haste: Haste, tmp_path: Path) -> None:
    net, x = torch.nn.Conv2d(8, 8, 3).eval(), redundant_images(2, 8, 12, 12)
    torch.export.save(torch.export.export(net, (x,)), tmp_path / "net.pt2")
    np.savez(tmp_path / "images.npz", images=x.numpy())
    arguments = ("validate", tmp_path / "net.pt2", "--images", tmp_path / "images.npz", "--no-cost-model", "--json")
    code, out, _ = haste(*arguments, "--rounds", 1)
    assert code == 0 and 0 < json.loads(out)["max_rel_error"] < 1
    code, _, err = haste(*arguments, "--input", "1x8x12x12")
    assert code == 2 and err.startswith("error: the network can't be called with --input 1x8x12x12: AssertionError")


def test_search(haste: Haste, tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text(SMALL)
    images, path = tmp_path / "images.npz", tmp_path / "best.json"
    np.savez(images, images=redundant_images(8, 8, 12, 12).numpy())
    model = (f"{tmp_path}/nets.py:net", "--input", "1x8x12x12", "--threads", 1, "--images", images)
    code, out, err = haste("search", *model, "--max-output-error", 0.5, "-o", path, "--json")
    found = json.loads(out)
    assert code == 0 and found["missed"] is None and "searching on 8 images" in err
    assert HasteConfig.load(path).to_dict() == found["config"]
    assert found["pareto"][found["chosen"]]["output_error"] < 0.5
    code, out, err = haste("search", *model, "--target-macs", 0.99)
    assert code == 1 and "Search within target_macs" in out and "error: --target-macs=0.99 can't be reached" in err


def test_search_says_what_it_needs_before_it_begins(haste: Haste, tmp_path: Path, digits: Path) -> None:
    code, out, err = haste("search", *NETWORK, "--images", digits, "-o", tmp_path / "best.txt", "--target-macs", 0.1)
    assert code == 2 and "must end in .json or .yaml" in err and "searching" not in err and not out
    code, _, err = haste("search", *NETWORK, "--images", digits)
    assert code == 2 and err.splitlines()[-1].startswith("error: ") and "budget" in err.splitlines()[-1].lower()


def test_bench(haste: Haste, digits: Path) -> None:
    code, out, _ = haste("bench", *MODEL, "--images", digits, "--rounds", 2, "--json")
    result = json.loads(out)["results"][0]
    assert code == 0 and result["inputs"] == [[2, 1, 32, 32]] and result["rounds"] == 2
    assert min(result[name]["best"] for name in ("original", "dense", "compiled")) > 0
    code, out, _ = haste("bench", *MODEL, "--rounds", 1)
    assert code == 0 and [line.split()[0] for line in out.splitlines()[1:]] == ["original", "dense", "HASTE", "speedup"]


def test_tune(haste: Haste, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HASTE_CACHE", str(tmp_path))
    (tmp_path / "nets.py").write_text("import torch\nnet = torch.nn.Conv2d(4, 8, 3)\n")
    code, out, _ = haste(
        "tune", f"{tmp_path}/nets.py:net", "--input", "1x4x9x9", "--rounds", 1, "--threads", 1, "--json"
    )
    found = json.loads(out)
    assert code == 0 and found["cache"] == str(tmp_path) and found["tuned"]["best"] > 0
    assert list(tmp_path.glob("tuning-*.json"))


def test_info_of_a_saved_network(haste: Haste, file: Path) -> None:
    code, out, _ = haste("info", file)
    assert code == 0 and "DigitsResNet" in out and "input 2x1x32x32 float32: 5 of 8 convolutions HASTE" in out
    code, out, _ = haste("info", file, "--json")
    manifest = json.loads(out)
    assert code == 0 and manifest["format_version"] == 7
    assert manifest["configs"]["haste"]["cost_model"] is False
    code, out, err = haste("info", file, "--no-cost-model", "--preset", "paper")
    assert code == 2 and not out and err.startswith(f"error: {file} is compiled already")
    assert "doesn't go with --preset, --cost-model" in err


def test_info_of_a_damaged_file(haste: Haste, file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 255
    file.write_bytes(data)
    code, out, err = haste("info", file)
    assert code == 2 and not out and err.startswith(f"error: {file} is damaged") and err.count("\n") == 1


def test_info_of_a_model(haste: Haste) -> None:
    code, out, _ = haste("info", *MODEL, "--json")
    layers = json.loads(out)["layers"]
    assert code == 0 and [layer["name"] for layer in layers if layer["haste"]] == HASTE_LAYERS
    code, out, _ = haste("info", *MODEL)
    assert code == 0 and out.startswith("5 of 8 convolutions HASTE")


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("sklearn") is None, reason="scikit-learn has the digits")
def test_demo(haste: Haste) -> None:
    code, out, err = haste("demo", "--json")
    found = json.loads(out)
    assert code == 0 and found["batch"] == 20 and "Compiled for this machine in 3 ways" in err
    assert [row["name"] for row in found["networks"]][:2] == ["PyTorch", "compiled, float32"]
    assert all(row["agreement"] >= 0.97 for row in found["networks"])


@pytest.mark.parametrize("name", ["compile", "validate", "search", "tune", "bench", "info"])
def test_help_teaches(haste: Haste, name: str) -> None:
    code, out, _ = haste(name, "--help")
    assert code == 0 and f"haste {name} " in out and "Examples:" in out and "--json" in out


@pytest.mark.parametrize(
    "command", [("compile", "-o", "net.haste"), ("bench",), ("validate", "--images", "random"), ("info",)]
)
def test_a_cpu_computes_in_fp32_or_int8(haste: Haste, command: tuple[str, ...]) -> None:
    target = "llvm -mcpu=haswell"
    code, out, err = haste(*command, *MODEL, "--precision", "bf16", "--target", target)
    assert code == 2 and not out and "error: --precision is 'bf16': allowed are 'fp32', 'int8' and None for" in err
    assert "needs a CPU that multiplies it, such as -mcpu=znver4" in err


def test_another_machine(haste: Haste, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    target = "llvm -mtriple=aarch64-linux-gnu -mcpu=cortex-a76"
    code, _, err = haste("compile", *NETWORK, "--preset", "dense", "--target", target, "-o", tmp_path / "arm.haste")
    assert code == 2 and "error: linking code for aarch64 needs aarch64-linux-gnu-gcc" in err
    assert not (tmp_path / "arm.haste").exists()


def test_defects_show_where_they_are(haste: Haste, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise ZeroDivisionError("a defect")

    make: Callable[..., None] = fail
    monkeypatch.setattr("haste_compiler.api.compile", make)
    code, _, err = haste("info", *MODEL)
    assert code == 2 and "Traceback" in err and "ZeroDivisionError: a defect" in err


def test_compile_says_what_pytorch_runs(haste: Haste, tmp_path: Path) -> None:
    nets, path = tmp_path / "nets.py", tmp_path / "net.haste"
    nets.write_text(
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.conv = nn.Conv2d(3, 8, 3)\n"
        "    def forward(self, x):\n"
        "        return self.conv(x).cumsum(1)\n"
        "def net():\n"
        "    return Net().eval()\n"
    )
    arguments = ("compile", f"{nets}:net", "--input", "1x3x8x8", "-o", path)
    code, out, err = haste(*arguments, "--json")
    assert code == 0 and "needs PyTorch to run, which computes aten.cumsum.default in it" in err
    assert [each["operators"] for each in json.loads(out)["fallbacks"]] == [["aten.cumsum.default"]]
    code, out, _ = haste("info", path)
    assert code == 0 and "left to PyTorch" in out and "aten.cumsum.default" in out
    code, _, err = haste(*arguments, "--no-fallback")
    assert code == 2 and "aten.cumsum.default of layer 'cumsum' can't be compiled" in err


def test_cache(haste: Haste, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HASTE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HASTE_CACHE_SIZE", "20M")
    empty = {"folder": str(tmp_path / "cache"), "libraries": 0, "measurements": 0, "bytes": 0}
    code, out, _ = haste("cache", "size", "--json")
    assert code == 0 and json.loads(out) == {**empty, "limit_bytes": 20_000_000}
    cache_entries.write(f"{0:040x}.so", lambda folder: bytes(3_000_000))
    cache_entries.write_json(f"costs-{0:040x}.json", {})
    code, out, _ = haste("cache", "size")
    said = "1 libraries and 1 measurements, 3.0 MB"
    assert code == 0 and out == f"{tmp_path}/cache: {said}, the oldest used 0 days ago; limit 20.0 MB\n"
    code, out, _ = haste("cache", "clean")
    assert code == 0 and out == f"{tmp_path}/cache: removed {said}\n"
    code, out, _ = haste("cache", "clean", "--json")
    assert code == 0 and json.loads(out) == empty
    monkeypatch.setenv("HASTE_CACHE_SIZE", "much")
    code, out, err = haste("cache", "size")
    assert code == 2 and not out and err.startswith("error: HASTE_CACHE_SIZE is 'much'")


def test_energy(haste: Haste) -> None:
    code, out, _ = haste("energy", "haste_compiler.demo:load_network", "--input", "1x1x32x32", "--json")
    found = json.loads(out)
    costs = {cost["scheme"]: cost for cost in found["costs"]}
    assert code == 0 and found["process"] == "7nm"
    assert costs["prom"]["microjoules"] <= costs["int8"]["microjoules"] < costs["float16"]["microjoules"]
    code, out, _ = haste("energy", "haste_compiler.demo:load_network", "--input", "1x1x32x32", "--sums", "wide")
    assert code == 0 and "wide sums" in out and "convolution" in out
