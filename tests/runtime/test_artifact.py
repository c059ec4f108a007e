"""Saved networks: what comes back is what was saved, or one clear error before any of its code is loaded."""

import copy
import hashlib
import json
import os
import pickle
import shutil
import subprocess
import sys
import tracemalloc
import zipfile
from collections import OrderedDict, namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import haste_compiler
from haste_compiler import (
    ArtifactError,
    ArtifactTargetError,
    ArtifactVersionError,
    CompiledModule,
    ConfigError,
    DamagedArtifactError,
    HasteConfig,
    HasteError,
    InputError,
    TargetError,
)
from haste_compiler.codegen import processor
from haste_compiler.demo import load_network
from haste_compiler.runtime import artifact_manifest
from tests.methods.haste.networks import redundant_images
from tests.runtime.alterations import of_format_1, read, write
from tests.without_torch import NO_TORCH

CONFIG = HasteConfig(cost_model=False, num_hyperplanes=8, layers={"blocks.2.*": {"tolerance": None}})
FOREIGN = {"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": "cortex-a76"}


@pytest.fixture(scope="module")
def compiled() -> CompiledModule:
    """The carried network, compiled for one image and for three."""
    made = haste_compiler.compile(load_network(), (images(3),), config=CONFIG, threads=1)
    made.prepare(images(1))
    return made


@pytest.fixture(scope="module")
def file(compiled: CompiledModule, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("artifact") / "digits.haste"
    compiled.save(path)
    return path


@pytest.fixture
def altered(file: Path, tmp_path: Path) -> Callable[..., Path]:
    """Writes the file again with parts replaced; ``sealed`` brings the manifest's checksum up to date."""

    def write(replace: dict[str, bytes], sealed: bool = False) -> Path:
        path = tmp_path / "altered.haste"
        with zipfile.ZipFile(file) as old, zipfile.ZipFile(path, "w") as new:
            parts = {name: replace.get(name, old.read(name)) for name in old.namelist()}
            if sealed:
                parts["manifest.sha256"] = hashlib.sha256(parts["manifest.json"]).hexdigest().encode()
            for name, data in parts.items():
                new.writestr(name, data)
        return path

    return write


def images(count: int) -> Tensor:
    return redundant_images(count, 1, 32, 32, seed=count)


def manifest_of(file: Path) -> dict[str, Any]:
    with zipfile.ZipFile(file) as archive:
        manifest = json.loads(archive.read("manifest.json"))
    assert isinstance(manifest, dict)
    return manifest


# What comes back


@pytest.mark.parametrize("count", [1, 3])
def test_same_bits_for_every_signature(compiled: CompiledModule, file: Path, count: int) -> None:
    loaded, x = haste_compiler.load(file), images(count)
    assert torch.equal(loaded(x), compiled(x))
    assert sorted(loaded.shapes) == [((1, 1, 32, 32),), ((3, 1, 32, 32),)]


def test_arrays_in_arrays_out(compiled: CompiledModule, file: Path) -> None:
    loaded, x = haste_compiler.load(file), images(3)
    y = loaded(np.asfortranarray(x.numpy())[:, :, ::-1])
    assert isinstance(y, np.ndarray)
    np.testing.assert_array_equal(y, compiled(x.flip(2)).numpy())
    assert isinstance(loaded(x), Tensor)


def test_outputs_belong_to_the_caller(file: Path) -> None:
    loaded = haste_compiler.load(file)
    first = loaded(images(3))
    kept = first.clone()
    loaded(-images(3))
    assert torch.equal(first, kept)


def test_it_tells_what_the_compiled_one_tells(compiled: CompiledModule, file: Path) -> None:
    loaded, x = haste_compiler.load(file), images(1)
    mine, theirs = loaded.stats(x), compiled.stats(x)
    assert mine.keys() == theirs.keys() and "blocks.0.conv1" in mine
    for name, stats in theirs.items():
        assert mine[name].macs == stats.macs and mine[name].error_bound == stats.error_bound
        np.testing.assert_array_equal(mine[name].counts, stats.counts)
    assert loaded.config == compiled.config and str(loaded.target) == str(compiled.target)
    assert str(loaded.explain()) == str(compiled.explain())
    assert loaded.groupings == compiled.groupings and loaded.threads == 1
    assert [layer.name for layer in loaded.layers] == [layer.name for layer in compiled.layers]
    assert "blocks.0.conv1" in loaded.profile(x)


def test_it_can_be_validated(file: Path) -> None:
    loaded = haste_compiler.load(file)
    report = haste_compiler.validate(load_network(), loaded, images(3), time=False)
    assert 0 < report.max_rel_error < 0.5 and report.macs.hashing > 0
    with pytest.raises(HasteError, match="no dense compile"):
        haste_compiler.validate(load_network(), loaded, images(3), rounds=1)


def test_steering_survives(compiled: CompiledModule, tmp_path: Path) -> None:
    x = images(3)
    before = compiled(x)
    compiled.tolerance, compiled.num_hyperplanes = {"blocks.0.*": 0.05, "blocks.1.*": None}, 6
    try:
        compiled.save(tmp_path / "steered.haste")
        steered, tolerance = compiled(x), compiled.tolerance
    finally:
        compiled.num_hyperplanes, compiled.tolerance = 8, {"blocks.[01].*": CONFIG.tolerance}
    loaded = haste_compiler.load(tmp_path / "steered.haste")
    assert loaded.tolerance == tolerance and loaded.num_hyperplanes == 6
    assert torch.equal(loaded(x), steered) and not torch.equal(steered, before)


def test_steering_goes_on(compiled: CompiledModule, file: Path) -> None:
    loaded, x = haste_compiler.load(file), images(1)
    before = loaded(x)
    loaded.tolerance, loaded.flat_tolerance = 0.0, 0.0
    assert loaded.tolerance == 0 and not torch.equal(loaded(x), before)
    with pytest.raises(ConfigError, match=r"stem\.0.*dense convolution.*one input channel"):
        loaded.tolerance = {"stem.0": 0.1}


def test_weights_are_stored_once(file: Path, compiled: CompiledModule) -> None:
    manifest = manifest_of(file)
    names = [name for part in manifest["specializations"] for name in part["constants"]]
    one = sum(np.prod(constant.shape) * 4 for constant in compiled._parts()[0].executable.constants)
    assert len(set(names)) < len(names)
    assert manifest["files"]["weights.safetensors"]["bytes"] < 1.5 * one


def test_saving_again_gives_the_same_manifest(file: Path, compiled: CompiledModule, tmp_path: Path) -> None:
    compiled.save(tmp_path / "again.haste")
    assert manifest_of(tmp_path / "again.haste") == manifest_of(file)
    assert {part["library"] for part in manifest_of(file)["specializations"]} == {"code/0.so", "code/1.so"}


def test_saved_when_the_cache_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HASTE_CACHE", str(tmp_path / "cache"))
    model, x = nn.Conv2d(9, 8, 3).eval(), redundant_images(1, 9, 12, 12)
    for cache in (True, False):
        compiled = haste_compiler.compile(model, (x,), config=HasteConfig(cost_model=False), cache=cache)
        shutil.rmtree(tmp_path / "cache", ignore_errors=True)
        compiled.save(tmp_path / "conv.haste")
        assert torch.equal(haste_compiler.load(tmp_path / "conv.haste")(x), compiled(x))


WITHOUT_TORCH = f"""{NO_TORCH}
import numpy as np
import haste_compiler

network = haste_compiler.load(sys.argv[1])
data = np.load(sys.argv[2])
assert np.array_equal(network(data["x"]), data["y"]), "other bits"
network.tolerance = 0.0
assert not np.array_equal(network(data["x"]), data["y"]), "not steered"
stats = network.stats(data["x"])
assert "blocks.0.conv1" in network.profile(data["x"]), "no profile"
print(network.explain(), sum(layer.macs.spent for layer in stats.values()), "torch" in sys.modules)
"""


def test_it_runs_without_pytorch(compiled: CompiledModule, file: Path, tmp_path: Path) -> None:
    x = images(3)
    np.savez(tmp_path / "data.npz", x=x.numpy(), y=compiled(x).numpy())
    command = [sys.executable, "-c", WITHOUT_TORCH, str(file), str(tmp_path / "data.npz")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "blocks.0.conv1" in done.stdout and done.stdout.split()[-1] == "False"


STREAM_WITHOUT_TORCH = f"""{NO_TORCH}
import numpy as np
import haste_compiler

stream = haste_compiler.load(sys.argv[1]).stream(tolerance=0.1)
data = np.load(sys.argv[2])
for x, y in zip(data["x"], data["y"]):
    assert np.array_equal(stream(x), y), "other bits"
print(stream.stats().last_work, "torch" in sys.modules)
"""


@pytest.fixture(scope="module")
def streaming(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The carried network, plain, with streams of one image and of three."""
    made = haste_compiler.compile(load_network(), (images(3),), config=HasteConfig(enabled=False), threads=1)
    made.prepare(images(1))
    path = tmp_path_factory.mktemp("artifact") / "stream.haste"
    made.save(path, streams=True)
    return path


def frames(count: int) -> list[Tensor]:
    """A picture of which a corner changes, then nothing."""
    changed = images(count).clone()
    changed[:, :, :6, :6] += 1
    return [images(count), changed, changed]


@pytest.mark.parametrize("count", [1, 3])
def test_streams_come_back(streaming: Path, count: int) -> None:
    compiled = haste_compiler.compile(load_network(), config=HasteConfig(enabled=False), threads=1)
    mine, theirs = haste_compiler.load(streaming).stream(tolerance=0.1), compiled.stream(tolerance=0.1)
    work = []
    for frame in frames(count):
        assert torch.equal(mine(frame), theirs(frame))
        assert mine.stats() == theirs.stats()
        work.append(mine.stats().last_work)
    assert work[0] == 1 > work[1] > work[2] == 0
    with pytest.raises(InputError, match="the stream began with another shape"):
        mine(images(4 - count))
    mine.reset()
    mine(images(4 - count))


def test_streams_run_without_pytorch(streaming: Path, tmp_path: Path) -> None:
    stream = haste_compiler.load(streaming).stream(tolerance=0.1)
    y = np.stack([stream(frame).numpy() for frame in frames(1)])
    np.savez(tmp_path / "data.npz", x=np.stack([frame.numpy() for frame in frames(1)]), y=y)
    command = [sys.executable, "-c", STREAM_WITHOUT_TORCH, str(streaming), str(tmp_path / "data.npz")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["0.0", "False"]


def test_saved_without_streams(file: Path) -> None:
    with pytest.raises(HasteError, match=r"digits\.haste was saved without streams: save it with .*streams=True"):
        haste_compiler.load(file).stream()


def test_streams_of_any_batch_are_refused(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(16, 8, 3))
    made = haste_compiler.compile(model, (torch.zeros(2, 16, 12, 12),), dynamic=True, threads=1)
    with pytest.raises(ArtifactError, match="Sequential is compiled for any batch, and streams are of fixed shapes"):
        made.save(tmp_path / "net.haste", streams=True)


@pytest.mark.parametrize("copied", [pickle.dumps, copy.copy, copy.deepcopy])
def test_a_loaded_network_cannot_be_copied(file: Path, copied: Callable[[Any], Any]) -> None:
    with pytest.raises(HasteError, match="a loaded DigitsResNet can't be pickled or copied: its machine code"):
        copied(haste_compiler.load(file))


def test_saved_without_a_method(tmp_path: Path) -> None:
    model, x = nn.Conv2d(9, 8, 3).eval(), redundant_images(1, 9, 12, 12)
    compiled = haste_compiler.compile(model, (x,), config=[])
    compiled.save(tmp_path / "conv.haste")
    loaded = haste_compiler.load(tmp_path / "conv.haste")
    assert loaded.config == () and torch.equal(loaded(x), compiled(x)) and not loaded.stats(x)


# Files of older versions


def test_format_1_is_still_read(compiled: CompiledModule, file: Path, altered: Callable[..., Path]) -> None:
    old = of_format_1(manifest_of(file))
    loaded, x = haste_compiler.load(altered({"manifest.json": json.dumps(old).encode()}, sealed=True)), images(3)
    assert torch.equal(loaded(x), compiled(x))
    assert loaded.config == compiled.config and str(loaded.explain()) == str(compiled.explain())
    assert loaded.groupings == compiled.groupings and loaded.tolerance == compiled.tolerance
    mine, theirs = loaded.stats(x), compiled.stats(x)
    assert {name: each.macs for name, each in mine.items()} == {name: each.macs for name, each in theirs.items()}
    assert [choice.haste for choice in loaded.explain().layers] == [layer.eligible for layer in compiled.layers]


def test_format_4_is_still_read(compiled: CompiledModule, file: Path, tmp_path: Path) -> None:
    """It keeps no share of the outputs' error."""

    def older(manifest: dict[str, Any]) -> None:
        manifest["format_version"] = 4
        for part in manifest["specializations"]:
            for layer in part["layers"]:
                del layer["choice"]["output_error"], layer["choice"]["network_error"]

    loaded = haste_compiler.load(altered_manifest(file, tmp_path / "net.haste", older))
    assert str(loaded.explain()) == str(compiled.explain())


def test_format_5_is_still_read(compiled: CompiledModule, file: Path, tmp_path: Path) -> None:
    """It has no streams, and all else that format 6 has without them."""
    loaded = haste_compiler.load(
        altered_manifest(file, tmp_path / "net.haste", lambda manifest: manifest.update(format_version=5))
    )
    assert torch.equal(loaded(images(3)), compiled(images(3)))


def test_format_6_is_still_read(compiled: CompiledModule, file: Path, tmp_path: Path) -> None:
    """All of its weights are as they are."""

    def older(manifest: dict[str, Any]) -> None:
        manifest["format_version"] = 6
        assert manifest.pop("ternary") == {}

    loaded = haste_compiler.load(altered_manifest(file, tmp_path / "net.haste", older))
    assert torch.equal(loaded(images(3)), compiled(images(3)))


def test_the_first_files_of_format_3_are_still_read(compiled: CompiledModule, file: Path, tmp_path: Path) -> None:
    """They hold neither the inputs' names nor constants, and all layers were convolutions."""

    def older(manifest: dict[str, Any]) -> None:
        manifest["format_version"] = 3
        del manifest["parameters"]
        for part in manifest["specializations"]:
            del part["input_values"]
            for layer in part["layers"]:
                for name in ("kind", "setting", "output_error", "network_error"):
                    del layer["choice"][name]

    loaded = haste_compiler.load(altered_manifest(file, tmp_path / "net.haste", older))
    assert torch.equal(loaded(images(3)), compiled(images(3)))


# Structures

Pair = namedtuple("Pair", ["scores", "count"])


@dataclass
class Found:
    mean: Tensor
    nothing: Tensor | None = None


class Many(nn.Module):
    """Takes a dictionary and a list, returns containers of every kind, numbers among the tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3)

    def forward(self, x: dict[str, Tensor], more: list[Tensor]) -> Any:
        y = self.conv(x["image"])
        found = OrderedDict(b=Found(y.mean(dim=(2, 3))), a=[None, 2.5, x["mask"]])
        return Pair(y + more[0], 3), {"found": found}, (y > 0,)


def test_structures(tmp_path: Path) -> None:
    inputs = ({"mask": torch.tensor([True, False]), "image": redundant_images(2, 8, 9, 9)}, [torch.ones(1)])
    compiled = haste_compiler.compile(Many().eval(), inputs, config=HasteConfig(cost_model=False))
    compiled.save(tmp_path / "many.haste")
    loaded = haste_compiler.load(tmp_path / "many.haste")
    pair, rest, (positive,) = loaded(*inputs)
    expected, other, (sign,) = compiled(*inputs)
    assert type(pair).__name__ == "Pair" and torch.equal(pair.scores, expected.scores) and pair.count == 3
    assert list(rest["found"]) == ["b", "a"] and torch.equal(rest["found"]["b"].mean, other["found"]["b"].mean)
    assert rest["found"]["a"][:2] == [None, 2.5] and torch.equal(rest["found"]["a"][2], inputs[0]["mask"])
    assert positive.dtype == torch.bool and torch.equal(positive, sign)
    arrays = loaded({"mask": np.array([True, False]), "image": inputs[0]["image"].numpy()}, [np.ones(1, np.float32)])
    np.testing.assert_array_equal(arrays[0].scores, pair.scores)
    with pytest.raises(InputError, match="wasn't saved for inputs like these"):
        loaded(inputs[0], tuple(inputs[1]))


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ((images(2),), r"saved for inputs of shape 3x1x32x32; 1x1x32x32, not 2x1x32x32"),
        ((images(2).numpy(),), r"saved for inputs of shape 3x1x32x32; 1x1x32x32, not 2x1x32x32"),
        ((images(1).double(),), r"input 0 is torch.float64: the network takes torch.float32"),
        ((images(1).double().numpy(),), r"input 0 is float64: the network takes float32"),
        ((images(1)[0],), r"input 0 has shape \(1, 32, 32\), rank 3: the network takes rank 4"),
        ((images(1)[0].numpy(),), r"input 0 has shape \(1, 32, 32\), rank 3: the network takes rank 4"),
        (("digit",), r"it takes 1 tensors in the containers that it was compiled with"),
        ((object(),), r"input 0 is object: allowed are PyTorch tensors and NumPy arrays"),
        ((images(1), images(1)), r"2 inputs are given: the network takes x"),
    ],
)
def test_inputs_that_are_refused(file: Path, inputs: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        haste_compiler.load(file)(*inputs)


# What is refused, before any code is loaded


@pytest.fixture
def no_code(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any) -> None:
        raise AssertionError("code was loaded")

    monkeypatch.setattr("haste_compiler.runtime.artifact_load.Library", refuse)


@pytest.mark.usefixtures("no_code")
@pytest.mark.parametrize("part", ["code/0.so", "code/1.so", "weights.safetensors", "manifest.json"])
def test_one_altered_byte(file: Path, altered: Callable[..., Path], part: str) -> None:
    with zipfile.ZipFile(file) as archive:
        data = bytearray(archive.read(part))
    place = data.index(b'"threads": 1') + 11 if part == "manifest.json" else len(data) // 2
    data[place] ^= 3
    with pytest.raises(DamagedArtifactError, match=f"is damaged: {part} isn't what was written"):
        haste_compiler.load(altered({part: bytes(data)}))


@pytest.mark.usefixtures("no_code")
def test_one_flipped_byte_in_the_file_itself(file: Path, tmp_path: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 255
    (tmp_path / "flipped.haste").write_bytes(data)
    with pytest.raises(DamagedArtifactError, match=r"is damaged: weights.safetensors can't be read"):
        haste_compiler.load(tmp_path / "flipped.haste")


@pytest.mark.usefixtures("no_code")
@pytest.mark.parametrize("kept", [0.0, 0.01, 0.5, 0.999])
def test_cut_short(file: Path, tmp_path: Path, kept: float) -> None:
    data = file.read_bytes()
    (tmp_path / "short.haste").write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(DamagedArtifactError, match="it is no zip" if kept == 0 else "the file is cut short"):
        haste_compiler.load(tmp_path / "short.haste")


def test_not_an_artifact(tmp_path: Path) -> None:
    other = tmp_path / "other"
    with pytest.raises(ArtifactError, match="can't be read: No such file"):
        haste_compiler.load(other)
    other.write_text("a text")
    with pytest.raises(DamagedArtifactError, match="it is no zip"):
        haste_compiler.load(other)
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("data.pkl", b"")
    with pytest.raises(DamagedArtifactError, match=r"a zip without manifest\.json"):
        haste_compiler.load(other)


@pytest.mark.usefixtures("no_code")
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"format_version": artifact_manifest.FORMAT_VERSION + 1}, ArtifactVersionError, "has format 8.*reads up to 7"),
        ({"versions": {"tvm": "0.99.1"}}, ArtifactVersionError, r"needs TVM 0\.99\.1, installed is"),
        ({"format": "something"}, DamagedArtifactError, "says nothing of one"),
        (
            {"specializations": [{}]},
            DamagedArtifactError,
            r"doesn't describe a network: the manifest\.specializations\[0\] has no 'inputs'",
        ),
    ],
)
def test_other_versions(
    file: Path, altered: Callable[..., Path], change: dict[str, Any], error: type[Exception], message: str
) -> None:
    manifest = json.dumps({**manifest_of(file), **change}).encode()
    with pytest.raises(error, match=message):
        haste_compiler.load(altered({"manifest.json": manifest}, sealed=True))


@pytest.mark.usefixtures("no_code")
def test_another_processor(file: Path, altered: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = manifest_of(file)
    manifest["target"]["features"] = ["avx512f", "avx2"]
    path = altered({"manifest.json": json.dumps(manifest).encode()}, sealed=True)
    monkeypatch.setattr(processor, "_own_flags", lambda: frozenset({"avx2", "fma"}))
    with pytest.raises(ArtifactTargetError, match="this machine has no avx512f; compile it for this one"):
        haste_compiler.load(path)
    assert issubclass(ArtifactTargetError, TargetError)


@pytest.mark.parametrize("kind", ["folder", "fifo", "device"])
def test_what_is_no_plain_file(tmp_path: Path, kind: str) -> None:
    """Some have no end, others keep whoever opens them waiting."""
    path = Path("/dev/zero") if kind == "device" else tmp_path / "net.haste"
    if kind == "folder":
        path.mkdir()
    if kind == "fifo":
        os.mkfifo(path)
    with pytest.raises(ArtifactError, match=f"{path} can't be read: it is no plain file"):
        haste_compiler.load(path)


def altered_manifest(file: Path, path: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """Write the file with another manifest and right checksums."""
    manifest, parts = read(file)
    change(manifest)
    write(path, manifest, parts)
    return path


def more_hyperplanes(manifest: dict[str, Any]) -> None:
    manifest["specializations"][1]["records"][2]["values"][0] = 1000.0


def many_threads(manifest: dict[str, Any]) -> None:
    manifest["threads"] = 10**9


def unknown_field(manifest: dict[str, Any]) -> None:
    manifest["specializations"][0]["layers"][0]["mystery"] = 1


def strange_part(manifest: dict[str, Any]) -> None:
    manifest["files"]["../elsewhere"] = manifest["files"]["code/0.so"]


def unknown_cpu(manifest: dict[str, Any]) -> None:
    manifest["target"]["options"]["mcpu"] = "abacus"


@pytest.mark.usefixtures("no_code")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (more_hyperplanes, "num_hyperplanes must be between 1 and 30, not 1000"),
        (many_threads, "the manifest.threads is 1000000000: allowed is a whole number from 1 to 1024"),
        (unknown_field, r"specializations\[0\]\.layers\[0\] has a field 'mystery'"),
        (strange_part, "a name in files is '../elsewhere': allowed is 'weights.safetensors'"),
        (unknown_cpu, "unknown CPU 'abacus'"),
    ],
)
def test_contents_that_are_no_network(
    file: Path, tmp_path: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    path = altered_manifest(file, tmp_path / "net.haste", change)
    with pytest.raises(DamagedArtifactError, match=f"{path} doesn't describe a network: .*{message}"):
        haste_compiler.load(path)


def fewer_arguments(manifest: dict[str, Any]) -> None:
    manifest["specializations"][0]["constants"].pop()


def test_another_number_of_arguments(file: Path, tmp_path: Path) -> None:
    path = altered_manifest(file, tmp_path / "net.haste", fewer_arguments)
    with pytest.raises(DamagedArtifactError, match=r"code/0\.so takes (\d+) arguments, and \d+ are described"):
        haste_compiler.load(path)


def test_another_networks_library(file: Path, tmp_path: Path) -> None:
    """Its arguments are of other shapes, which only a call finds."""
    manifest, parts = read(file)
    first, second = "code/0.so", "code/1.so"
    parts[first], parts[second] = parts[second], parts[first]
    manifest["files"][first], manifest["files"][second] = manifest["files"][second], manifest["files"][first]
    write(tmp_path / "net.haste", manifest, parts)
    loaded = haste_compiler.load(tmp_path / "net.haste")
    for use in (loaded, loaded.stats, loaded.profile):
        with pytest.raises(ArtifactError, match=r"net\.haste describes another network than its machine code computes"):
            use(images(3))


@pytest.mark.usefixtures("no_code")
@pytest.mark.parametrize(("compression", "told"), [(zipfile.ZIP_DEFLATED, True), (zipfile.ZIP_STORED, False)])
def test_no_more_is_read_than_a_part_is_said_to_have(file: Path, tmp_path: Path, compression: int, told: bool) -> None:
    """Either a part that grows as it is read, or one that is larger than the manifest says."""
    manifest, parts = read(file)
    size, name = 64 << 20, "code/0.so"
    if told:
        manifest["files"][name] = {"bytes": size, "sha256": hashlib.sha256(bytes(size)).hexdigest()}
    del parts[name]
    write(tmp_path / "net.haste", manifest, parts)
    with zipfile.ZipFile(tmp_path / "net.haste", "a", compression) as archive:
        archive.writestr(name, bytes(size))
    tracemalloc.start()
    try:
        with pytest.raises(DamagedArtifactError, match=rf"{name} has another size than it is said to have"):
            haste_compiler.load(tmp_path / "net.haste")
        assert tracemalloc.get_traced_memory()[1] < size
    finally:
        tracemalloc.stop()


# What can't be saved


def test_nothing_to_save(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="DigitsResNet is not compiled yet"):
        haste_compiler.compile(load_network()).save(tmp_path / "nothing.haste")


def test_writing_is_all_or_nothing(compiled: CompiledModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "net.haste"
    path.write_text("what was there")

    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(ArtifactError, match="can't be written: No space left on device"):
        compiled.save(path)
    assert path.read_text() == "what was there" and [item.name for item in tmp_path.iterdir()] == ["net.haste"]
    with pytest.raises(ArtifactError, match="can't be written: No such file"):
        compiled.save(tmp_path / "absent" / "net.haste")


# Other machines


@pytest.fixture(scope="module")
def foreign() -> CompiledModule:
    return haste_compiler.compile(load_network(), (images(1),), target=FOREIGN, config=CONFIG)


def test_compiled_for_another_machine_it_refuses_to_run(foreign: CompiledModule) -> None:
    assert any(layer.eligible for layer in foreign.layers)
    with pytest.raises(TargetError, match="code for cortex-a76 can't run here: this machine has no aarch64"):
        foreign(images(1))
    with pytest.raises(TargetError, match="tune: code for cortex-a76 can't run here"):
        haste_compiler.compile(load_network(), (images(1),), target=FOREIGN, tune=True)


def test_a_missing_linker_is_named(foreign: CompiledModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(TargetError, match="linking code for aarch64 needs aarch64-linux-gnu-gcc or"):
        foreign.save(tmp_path / "foreign.haste")


@pytest.mark.skipif(shutil.which("aarch64-linux-gnu-gcc") is None, reason="aarch64-linux-gnu-gcc is not installed")
def test_saved_for_another_machine(foreign: CompiledModule, tmp_path: Path) -> None:
    foreign.save(tmp_path / "foreign.haste")
    with zipfile.ZipFile(tmp_path / "foreign.haste") as archive:
        header = archive.read("code/0.so")[:20]
    assert header[:4] == b"\x7fELF" and header[18:20] == b"\xb7\x00"  # e_machine of AArch64
    with pytest.raises(ArtifactTargetError, match="compiled for cortex-a76: this machine has no aarch64"):
        haste_compiler.load(tmp_path / "foreign.haste")
