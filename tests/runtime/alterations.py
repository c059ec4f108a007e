"""Saved networks whose manifest is altered, with right checksums; run as a program, so that a crash is seen.

    python -m tests.runtime.alterations FOLDER FIRST LAST

loads every altered file of the networks that ``save_all`` wrote to a folder, from the alteration FIRST up to LAST, with
little memory left, and prints a line for each: "refused", "harmless" or what went wrong.
"""

import copy
import hashlib
import json
import random
import re
import resource
import sys
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import haste_compiler
from haste_compiler import HasteConfig, HasteError

_SPARE_BYTES = 1 << 30
_OTHERS: tuple[Any, ...] = (None, True, "", "text", 0, -1, 1, 7, 10**9, 10**12, 10**30, 1e300, [], [[]], {}, {"a": 1})

Path_ = tuple[Any, ...]


@dataclass
class Pair:
    """Two outputs, one a number."""

    scores: Tensor
    count: int


class Mixed(nn.Module):
    """Containers and constants in and out, and operators that PyTorch runs after those of ours."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.after = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 8, 3)

    def forward(self, given: dict[str, Tensor], scale: float = 2.0) -> Any:
        x, _ = torch.sort(self.before(given["image"]), dim=3)
        y, _ = torch.sort(self.after(x), dim=2)
        return {"pair": Pair(y * scale, 3), "more": [x.mean(dim=(2, 3))]}


def _convs() -> nn.Module:
    return nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 8, 3))


def _image(side: int, batch: int = 1) -> Tensor:
    return torch.randn(batch, 16, side, side, generator=torch.Generator().manual_seed(side))


INPUTS: dict[str, tuple[Any, ...]] = {
    "haste": (_image(12),),
    "old": (_image(12),),
    "dynamic": (_image(12, 3),),
    "mixed": ({"image": _image(12)},),
    "stream": (_image(12),),
}
"""What each network is called with."""


def save_all(folder: Path) -> None:
    """Save a network of two signatures, as format 1 wrote it too, one for any batch, one with streams, one with all
    else."""
    config = HasteConfig(cost_model=False)
    haste = haste_compiler.compile(_convs(), INPUTS["haste"], config=config, threads=1)
    haste.prepare(_image(9))
    haste.save(folder / "haste.haste")
    manifest, parts = read(folder / "haste.haste")
    write(folder / "old.haste", of_format_1(manifest), parts)
    haste_compiler.compile(_convs(), (_image(12, 2),), config=config, threads=1, dynamic=True).save(
        folder / "dynamic.haste"
    )
    plain = haste_compiler.compile(_convs(), INPUTS["stream"], config=HasteConfig(enabled=False), threads=1)
    plain.save(folder / "stream.haste", streams=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        haste_compiler.compile(Mixed(), INPUTS["mixed"], config=config, threads=1).save(folder / "mixed.haste")


def of_format_1(manifest: dict[str, Any]) -> dict[str, Any]:
    """The manifest as the version that knew one method wrote it."""
    old = {**copy.deepcopy(manifest), "format_version": 1}
    (old["config"],) = old.pop("configs").values()
    del old["parameters"]
    for part in old["specializations"]:
        records = part.pop("records")
        del part["input_values"], part["fallbacks"]
        part["groups"] = [{"layers": it["layers"], "settings": it["values"], **it["data"]} for it in records]
        for layer in part["layers"]:
            choice = layer["choice"]
            choice["haste"], choice["haste_ms"] = choice.pop("method") is not None, choice.pop("method_ms")
    return old


def read(path: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    """A file's manifest, and its other parts."""
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    del parts["manifest.sha256"]
    return json.loads(parts.pop("manifest.json")), parts


def write(path: Path, manifest: Any, parts: dict[str, bytes]) -> None:
    """Write a file with right checksums."""
    text = json.dumps(manifest).encode()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("manifest.json", text)
        archive.writestr("manifest.sha256", hashlib.sha256(text).hexdigest())
        for name, data in parts.items():
            archive.writestr(name, data)


def alterations(manifest: Any) -> list[tuple[str, Any]]:
    """Every alteration of a manifest: where and how, and the value that takes the place of the whole."""
    found = []
    for path, value in _places(manifest, ()):
        for how, other in _altered(value):
            found.append((f"{'.'.join(map(str, path))} {how}".replace(" ", "_"), _replaced(manifest, path, other)))
    return found


def _places(value: Any, path: Path_) -> Iterator[tuple[Path_, Any]]:
    yield path, value
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in items:
        yield from _places(each, (*path, key))


def _altered(value: Any) -> Iterator[tuple[str, Any]]:
    for other in _OTHERS:
        if type(other) is not type(value) or other != value:
            yield f"is {other!r}", other
    if isinstance(value, dict):
        yield "has more", {**value, "unexpected": 1}
        for key in value:
            yield f"lacks {key}", {name: each for name, each in value.items() if name != key}
        for one, other in zip(value, list(value)[1:], strict=False):
            yield f"swaps {one} and {other}", {**value, one: value[other], other: value[one]}
    if isinstance(value, list) and value:
        yield "lacks the last", value[:-1]
        yield "has the last twice", [*value, value[-1]]
        yield "is turned round", value[::-1]
    if isinstance(value, int | float) and not isinstance(value, bool):
        for other in (-value, value + 1, value * 2, value + 0.5, value * 10**6):
            yield f"is {other!r}", other


def _replaced(whole: Any, path: Path_, other: Any) -> Any:
    if not path:
        return other
    made = copy.copy(whole)
    made[path[0]] = _replaced(whole[path[0]], path[1:], other)
    return made


def chosen(folder: Path) -> list[tuple[str, str, Any]]:
    """All alterations: network, what is altered, the manifest. Each kind of place comes before others again."""
    found = [
        (name, where, altered) for name in INPUTS for where, altered in alterations(read(folder / f"{name}.haste")[0])
    ]
    random.Random(0).shuffle(found)
    seen: Counter[str] = Counter()
    order = []
    for number, (_, where, _) in enumerate(found):
        kind = re.sub(r"\d+", "", where.partition("_")[0])
        order.append((seen[kind], number))
        seen[kind] += 1
    return [found[number] for _, number in sorted(order)]


def outcome(path: Path, where: str, inputs: tuple[Any, ...]) -> str:
    """What loading and using a file leads to."""
    try:
        network = haste_compiler.load(path)
    except HasteError as error:
        return "refused" if str(path) in str(error) else f"refused without naming the file: {error}"
    except BaseException as error:
        return f"load: {type(error).__name__}: {error}"

    def streamed(*given: Any) -> Any:
        stream = network.stream()
        return stream(*given), stream(*given), stream.stats()

    def told(*given: Any) -> Any:
        return network.explain(), network.layers, network

    uses: list[Callable[..., Any]] = [network, network.stats, network.profile, told]
    if path.name.startswith("stream"):
        uses.append(streamed)
    for use in uses:
        try:
            str(use(*inputs))
        except HasteError as error:
            if "\n" in str(error):
                return f"said in many lines: {error}"
        except BaseException as error:
            # What PyTorch says of its own operators is passed on.
            if ".fallbacks." not in where or "ErrorContext" in str(error):
                return f"{getattr(use, '__name__', 'call')}: {type(error).__name__}: {error}"
    return "harmless"


def main(folder: Path, first: int, last: int) -> None:
    parts = {name: read(folder / f"{name}.haste")[1] for name in INPUTS}
    for name, inputs in INPUTS.items():
        haste_compiler.load(folder / f"{name}.haste")(*inputs)
    lines = Path("/proc/self/status").read_text().splitlines()
    used = next(int(line.split()[1]) for line in lines if line.startswith("VmData")) * 1024
    resource.setrlimit(resource.RLIMIT_DATA, (used + _SPARE_BYTES, used + _SPARE_BYTES))
    for name, where, manifest in chosen(folder)[first:last]:
        path = folder / f"{name}_altered.haste"
        write(path, manifest, parts[name])
        # Said before it is loaded: the last line names what crashed.
        print(name, where, end=" ", flush=True)
        print(" ".join(outcome(path, where, INPUTS[name]).split()), flush=True)


if __name__ == "__main__":
    np.seterr(all="ignore")
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
