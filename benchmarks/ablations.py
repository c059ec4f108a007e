"""What each choice of the method does, one at a time: `python -m benchmarks.ablations`.

Two rules are taken apart, the published one and ours. What the compiler has no choice of (other centring, more rounds)
and the bound's tightness are measured in plain PyTorch, which is slow: on the first of the images only.
"""

import argparse
import dataclasses
import json
import statistics
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from benchmarks.cases import AbsentError
from benchmarks.evaluation import Answers, Evaluator, Outcome, Workload, load
from benchmarks.progress import tick
from benchmarks.report import machine
from haste_compiler import HasteConfig
from haste_compiler.graph.geometry import ConvGeometry
from haste_compiler.methods.haste.macs import count_macs
from haste_compiler.methods.haste.reference.convolution import convolve_windows, place_patches
from haste_compiler.methods.haste.reference.grouping import filter_norms, group_windows
from haste_compiler.methods.haste.reference.hashing import hash_windows
from haste_compiler.methods.haste.reference.hyperplanes import draw_hyperplanes
from haste_compiler.methods.haste.reference.merging import (
    Groups,
    count_channels,
    gather_slots,
    group_sizes,
    merge_windows,
    rebuild_windows,
)
from haste_compiler.methods.haste.reference.module import HasteConv2d
from haste_compiler.methods.haste.reference.swap import swap_convs
from haste_compiler.methods.haste.reference.windows import extract_windows, window_mask
from haste_compiler.methods.haste.settings import Settings
from haste_compiler.methods.macs import MacCount

Centring = Literal["channels", "own", "none"]

BASES: dict[str, HasteConfig] = {
    "published": HasteConfig.paper().replace(min_reads=4),
    "ours": HasteConfig(patch_size=4, tolerance=0.5, min_reads=4, cost_model=False),
}
"""The rules that are varied, in the layers that gain: 3×3 of stride 1."""


@dataclass(frozen=True)
class Variant:
    """One row of a table.

    Attributes:
        label: what is varied.
        config: the configuration.
        centring: what is subtracted before hashing: the mean over the channels, each window's own mean, or nothing.
        rounds: how often channels that are still alone are hashed again, with other hyperplanes.
        plain: run in plain PyTorch in any case, to be compared with what is.
    """

    label: str
    config: HasteConfig
    centring: Centring = "channels"
    rounds: int = 1
    plain: bool = False

    @property
    def compiled(self) -> bool:
        """Whether the compiler has such an operator, and it is asked for."""
        return not self.plain and self.centring == "channels" and self.rounds == 1


class VariantConv2d(HasteConv2d):
    """A HASTE convolution whose hashing can be varied, and which counts what it does.

    Args:
        conv: as for ``HasteConv2d``.
        config: as for ``HasteConv2d``.
        name: as for ``HasteConv2d``.
        variant: how it hashes.

    Attributes:
        macs: multiply-adds of all calls.
        channels: seen in all calls, and those of them that were convolved.
    """

    def __init__(self, conv: nn.Conv2d, config: HasteConfig, name: str, variant: Variant) -> None:
        super().__init__(conv, config, name)
        self.variant, self.macs, self.channels = variant, MacCount(), (0, 0)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve (N, C, H, W)."""
        images, geometry = self._prepare(x)
        windows = extract_windows(images, geometry)
        patches = windows.shape[:3]
        flat = windows.flatten(0, 2)
        mask = window_mask(geometry).expand(*patches, -1).flatten(0, 2)
        groups, merges = self._grouped(flat, mask, geometry)
        rebuilt = rebuild_windows(merge_windows(flat, groups.slot, self.config.merge), groups, mask)
        output = images.new_empty(len(images), geometry.out_channels, *geometry.output_size)
        convolved = convolve_windows(rebuilt, self.weight, self.bias, geometry)
        place_patches(output, convolved.unflatten(0, patches), 0)
        slot, offset, times = (part.view(*patches, -1) for part in (groups.slot, groups.offset, merges))
        self._count(geometry, count_channels(slot, offset, geometry.groups, times))
        return output

    def _grouped(self, windows: Tensor, mask: Tensor, geometry: ConvGeometry) -> tuple[Groups, Tensor]:
        settings, config, variant = Settings.of(self.config), self.config, self.variant
        norms, channels = filter_norms(self.weight, geometry.groups), windows.shape[1]
        found: tuple[Groups, Tensor] | None = None
        codes = torch.zeros(windows.shape[:2], dtype=torch.int32)
        for number in range(variant.rounds):
            name = self.name if number == 0 else f"{self.name} round {number}"
            planes = draw_hyperplanes(geometry.window_pixels, config.seed, name, config.nonzeros)
            planes = planes[: settings.num_hyperplanes]
            fresh = centred_codes(windows, mask, planes, geometry.groups, variant.centring)
            if found is not None:
                slot = found[0].slot
                together = (slot >= 0) & (gather_slots(group_sizes(slot), slot.long()) >= 2)
                # Groups keep together under their slot's number; codes of the others lie beyond all of those.
                fresh = torch.where(together, slot, channels + fresh)
            codes = fresh
            found = group_windows(
                windows,
                codes,
                norms,
                mask,
                merge=config.merge,
                skip=config.skip,
                tolerance=settings.tolerance,
                flat_tolerance=settings.flat_tolerance,
                groups=geometry.groups,
            )
        assert found is not None
        return found

    def _count(self, geometry: ConvGeometry, counts: Tensor) -> None:
        config = self.config
        macs = count_macs(
            geometry,
            counts,
            config.num_hyperplanes,
            config.merge,
            config.tolerance is not None,
            config.skip,
            config.nonzeros,
        )
        self.macs += dataclasses.replace(macs, hashing=macs.hashing * self.variant.rounds)
        seen, kept = self.channels
        alone, merged = counts[..., 0], counts[..., 1]
        self.channels = seen + counts[..., 0].numel() * geometry.in_channels, kept + int((alone + merged).sum())


def centred_codes(windows: Tensor, mask: Tensor, planes: Tensor, groups: int, centring: Centring) -> Tensor:
    """Hash windows as ``hash_windows`` does, or with something else than the channels' mean taken off them.

    Args:
        windows: (B, C, q).
        mask: (B, q), 1 on image pixels.
        planes: (L, q).
        groups: convolution groups.
        centring: see ``Variant``.

    Returns:
        int32 (B, C).
    """
    if centring == "channels":
        return hash_windows(windows, planes, groups)
    if centring == "own":
        pixels = mask.sum(dim=-1, keepdim=True).clamp(min=1)
        windows = windows - (windows.sum(dim=-1) / pixels).unsqueeze(-1) * mask.unsqueeze(1)
    bits = windows.double() @ planes.double().T > 0
    return (bits * 2 ** torch.arange(len(planes))).sum(dim=-1).int()


def variants(study: str, rule: str, seeds: int) -> list[Variant]:
    """The rows of one study of one rule; empty where it does not apply to it."""
    base, ours = BASES[rule], rule == "ours"

    def rows(field: str, values: list[Any], **also: Any) -> list[Variant]:
        return [Variant(_written(value), base.replace(**{field: value}, **also)) for value in values]

    match study:
        case "planes":
            return rows("num_hyperplanes", [6, 8, 10, 12, 14, 16, 20])
        case "nonzeros":
            return rows("nonzeros", [2, 4, 6, 8, None])
        case "patch":
            return rows("patch_size", [2, 4, 8, 16, (2, 4), (4, 8), (2, 8)])
        case "centring":
            return [Variant(name, base, centring=name, plain=True) for name in ("channels", "own", "none")]
        case "merge":
            return rows("merge", ["mean", "projection"])
        case "rounds":
            return [Variant(str(number), base, rounds=number, plain=True) for number in (1, 2, 3)]
        case "seed":
            return rows("seed", list(range(seeds)))
        case "tolerance" if ours:
            return rows("tolerance", [0.2, 0.3, 0.4, 0.5, 0.7, None])
        case "flat" if ours:
            skips = [Variant(f"skip {name}", base.replace(skip=name)) for name in ("none", "zeros")]
            return skips + rows("flat_tolerance", [0.05, 0.1, 0.15, 0.2, 0.3])
    return []


STUDIES = {
    "planes": "hyperplanes",
    "nonzeros": "non-zeros a plane",
    "patch": "patch size",
    "centring": "taken off before hashing",
    "merge": "merge rule",
    "tolerance": "tolerance",
    "flat": "flat tolerance",
    "rounds": "hash rounds",
    "seed": "seed",
}


def _written(value: Any) -> str:
    if isinstance(value, tuple):
        return "×".join(map(str, value))
    return "none" if value is None else str(value)


class Ablation:
    """Runs variants of a network on the images of a workload.

    Args:
        workload: network and images.
        few: images, at most, for what runs in plain PyTorch.
        tick: called with what is being done.
    """

    def __init__(self, workload: Workload, few: int, tick: Callable[[str], None] = lambda doing: None) -> None:
        self._workload, self._few, self._tick = workload, workload.rows(slice(0, few)), tick
        self._evaluator = Evaluator(workload.model, len(workload.pixels), tick)

    def run(self, variant: Variant) -> tuple[Outcome, dict[str, float]]:
        """Run one variant: what it did, and the share of the channels that each layer kept."""
        if variant.compiled:
            workload, answers = self._workload, self._evaluator.run(self._workload, variant.config)
        else:
            workload, answers = self._few, self._run_plain(variant)
        shares = {name: kept / max(1, seen) for name, (seen, kept) in answers.channels.items()}
        return answers.outcome(workload), shares

    def _run_plain(self, variant: Variant) -> Answers:
        model = swap_convs(self._few.model, variant.config)
        varied = self._varied(model, variant)
        scores: list[Tensor] = []
        with torch.inference_mode():
            for x in self._few.calls():
                self._tick(f"{len(scores) * self._few.batch} of {len(self._few.pixels)} images")
                scores.append(model(x))
        macs = sum((layer.macs for layer in varied), MacCount())
        channels = {layer.name: layer.channels for layer in varied}
        images = len(scores) * self._few.batch
        return Answers(torch.cat(scores)[: len(self._few.pixels)], macs, channels, images)

    def tightness(self, config: HasteConfig) -> dict[str, float]:
        """By layer, the 2-norm of its output's error over the bound on it, in a network in which all layers merge."""
        model = swap_convs(self._few.model, config)
        squares: dict[str, tuple[float, float]] = {}

        def compare(layer: HasteConv2d, arguments: tuple[Tensor], output: Tensor) -> None:
            conv = self._few.model.get_submodule(layer.name)
            error = float((output.double() - conv(*arguments).double()).square().sum())
            bound = float(layer.analyse(*arguments)[0].bound.double().square().sum())
            before = squares.get(layer.name, (0.0, 0.0))
            squares[layer.name] = before[0] + error, before[1] + bound

        for layer in model.modules():
            if isinstance(layer, HasteConv2d):
                layer.register_forward_hook(compare)
        with torch.inference_mode():
            for x in self._few.calls():
                model(x)
        return {name: (error / bound) ** 0.5 if bound else 0.0 for name, (error, bound) in squares.items()}

    def _varied(self, model: nn.Module, variant: Variant) -> list[VariantConv2d]:
        """Put a ``VariantConv2d`` in the place of every HASTE convolution."""
        varied: dict[nn.Module, VariantConv2d] = {}
        for parent in list(model.modules()):
            for key, child in list(parent.named_children()):
                if isinstance(child, HasteConv2d):
                    conv = self._workload.model.get_submodule(child.name)
                    assert isinstance(conv, nn.Conv2d)
                    varied.setdefault(child, VariantConv2d(conv, child.config, child.name, variant))
                    parent.register_module(key, varied[child])
        return list(varied.values())


_HEADINGS = (
    "net reduction, %",
    "without overheads, %",
    "channels kept, %",
    "points lost",
    "agreement, %",
    "output error",
)


def cells(outcome: Outcome) -> list[str]:
    """One outcome's numbers as the tables show them."""
    percent = [100 * value for value in (outcome.net, outcome.gross, outcome.kept)]
    rest = [f"{outcome.lost:.2f}", f"{100 * outcome.agreement:.1f}", f"{outcome.error:.3f}"]
    return [*(f"{value:.1f}" for value in percent), *rest]


def spread(outcomes: list[Outcome]) -> list[str]:
    """Mean and standard deviation of several outcomes."""
    columns = zip(*([float(cell) for cell in cells(outcome)] for outcome in outcomes), strict=True)
    written = []
    for column in columns:
        deviation = statistics.stdev(column) if len(column) > 1 else 0.0
        written.append(f"{statistics.fmean(column):.2f} ± {deviation:.2f}")
    return written


def table(title: str, headings: list[str], rows: list[list[str]]) -> str:
    """A Markdown table under a heading."""
    lines = [f"### {title}", "", "| " + " | ".join(headings) + " |", "|---" + "|---:" * (len(headings) - 1) + "|"]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows]) + "\n"


def tables(
    ablation: Ablation, studies: list[str], rules: list[str], seeds: int
) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Run the studies: the text of each table and its numbers."""
    for study in studies:
        for rule in rules:
            rows, numbers, outcomes = [], [], []
            for variant in variants(study, rule, seeds):
                outcome, _ = ablation.run(variant)
                outcomes.append(outcome)
                rows.append([variant.label, *cells(outcome)])
                stored = {"study": study, "rule": rule, "variant": variant.label, "config": variant.config.to_dict()}
                numbers.append({**stored, **dataclasses.asdict(outcome)})
            if study == "seed" and outcomes:
                rows.append(["mean ± deviation", *spread(outcomes)])
            if rows:
                yield table(f"{STUDIES[study]}, {rule}", [STUDIES[study], *_HEADINGS], rows), numbers


def kept_channels(ablation: Ablation, rules: list[str]) -> tuple[str, list[dict[str, Any]]]:
    """The share of its channels that each layer keeps."""
    shares = {rule: ablation.run(Variant(rule, BASES[rule]))[1] for rule in rules}
    layers = list(next(iter(shares.values())))
    rows = [[layer, *(f"{100 * shares[rule][layer]:.1f}" for rule in rules)] for layer in layers]
    numbers = [{"study": "layers", "rule": rule, "kept": shares[rule]} for rule in rules]
    return table("channels kept, %", ["layer", *rules], rows), numbers


def tightness(ablation: Ablation, rules: list[str]) -> tuple[str, list[dict[str, Any]]]:
    """How much of the bound on its error each layer's error is."""
    shares = {rule: ablation.tightness(BASES[rule]) for rule in rules}
    rows = [[layer, *(f"{100 * shares[rule][layer]:.1f}" for rule in rules)] for layer in next(iter(shares.values()))]
    numbers = [{"study": "bound", "rule": rule, "error_over_bound": shares[rule]} for rule in rules]
    return table("error over its bound, %", ["layer", *rules], rows), numbers


BY_LAYER = {"layers": kept_channels, "bound": tightness}


def main() -> int:
    """Run what the command line asks for."""
    every = [*STUDIES, *BY_LAYER]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ablations", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--network", default="resnet18", help="as for benchmarks.pareto")
    parser.add_argument("--images", default="cifar", help='"cifar", or a folder of images, by class or without')
    parser.add_argument("--limit", type=int, default=2000, help="most images")
    parser.add_argument("--few", type=int, default=200, help="images for what runs in plain PyTorch")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--studies", nargs="+", choices=every, default=every)
    parser.add_argument("--rules", nargs="+", choices=list(BASES), default=list(BASES))
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--json", type=Path, help="also write everything to this file")
    given = parser.parse_args()
    if min(given.limit, given.few, given.seeds, given.batch) < 1:
        parser.error("--limit, --few, --seeds and --batch must be at least 1")
    try:
        workload = load(given.network, given.images, given.limit, given.batch)
    except AbsentError as error:
        print(error, file=sys.stderr)
        return 1

    ablation, numbers = Ablation(workload, given.few, tick), []
    for text, found in tables(ablation, [s for s in given.studies if s in STUDIES], given.rules, given.seeds):
        tick("")
        print(text, flush=True)
        numbers += found
    for study in (study for study in given.studies if study in BY_LAYER):
        text, found = BY_LAYER[study](ablation, given.rules)
        tick("")
        print(text)
        numbers += found
    if given.json:
        stored = {"machine": machine(), "network": workload.name, "images": len(workload.pixels), "rows": numbers}
        given.json.write_text(json.dumps(stored, indent=1, allow_nan=False) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
