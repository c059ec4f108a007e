"""Accuracy against multiply-adds, the published rule's curve and ours: `python -m benchmarks.pareto`.

Settings are screened on some images of one half with one seed, those worth it are run on all images, and the ones at
the limit with all seeds. What is reported of them comes from the other half, which nothing was chosen on.
"""

import argparse
import dataclasses
import itertools
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import haste_compiler
from benchmarks.cases import AbsentError
from benchmarks.evaluation import Evaluator, Outcome, Workload, describe, load, undominated
from benchmarks.progress import tick
from benchmarks.report import machine
from haste_compiler import HasteConfig

RULES = {"published": "published rule", "uniform": "ours, one setting", "search": "ours, by layer"}

_PLANES = (10, 12, 13, 14, 16, 20)
# From careful to bold: hyperplanes, tolerance, flat tolerance.
_LADDER = (
    (16, 0.4, 0.1),
    (14, 0.5, 0.1),
    (14, 0.5, 0.15),
    (12, 0.5, 0.15),
    (12, 0.5, 0.2),
    (10, 0.5, 0.2),
    (10, 0.6, 0.25),
    (8, 0.6, 0.25),
)


@dataclass(frozen=True)
class Point:
    """One configuration of one rule.

    Attributes:
        rule: one of ``RULES``.
        config: its seed is the first one's.
        chosen_on: outcomes on the half that settings are chosen on, one a seed.
        held_out: outcomes on the other half.
        whole: outcomes on both.
    """

    rule: str
    config: HasteConfig
    chosen_on: list[Outcome]
    held_out: list[Outcome]
    whole: list[Outcome]

    def mean(self, name: str, part: str = "held_out") -> float:
        """Mean over the seeds of one number of the outcomes on one part of the images."""
        return statistics.fmean(getattr(outcome, name) for outcome in getattr(self, part))

    def spread(self, name: str, part: str = "held_out") -> float:
        """Standard deviation over the seeds; 0 for one seed."""
        numbers = [getattr(outcome, name) for outcome in getattr(self, part)]
        return statistics.stdev(numbers) if len(numbers) > 1 else 0.0

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        return {**dataclasses.asdict(dataclasses.replace(self, config=None)), "config": self.config.to_dict()}  # type: ignore[arg-type]


def published(patches: Sequence[int]) -> list[HasteConfig]:
    """The published rule at several numbers of planes and patches, in all layers or only those that gain most."""
    paper = HasteConfig.paper()
    return [
        paper.replace(patch_size=patch, num_hyperplanes=planes, min_reads=reads)
        for patch, reads, planes in itertools.product(patches, (0, 4), _PLANES)
    ]


def uniform(patches: Sequence[int]) -> list[HasteConfig]:
    """Our rule, one setting for all layers."""
    return [
        HasteConfig(
            patch_size=patch, num_hyperplanes=planes, tolerance=tolerance, flat_tolerance=flat, cost_model=False
        )
        for patch, (planes, tolerance, flat) in itertools.product(patches, _LADDER)
    ]


def searched(
    workload: Workload, limit: float, patches: Sequence[int], seed: int = 0
) -> list[tuple[HasteConfig, float, float, float]]:
    """Settings by layer: what the search finds on a workload around a limit on the points lost.

    Returns:
        Each configuration's net reduction, output error and agreement on images that the search held out.
    """
    found = haste_compiler.search(
        workload.model,
        workload.normalise(workload.pixels),
        labels=workload.labels,
        max_accuracy_drop=limit / 100,
        patches=patches,
        config=HasteConfig(seed=seed, cost_model=False),
    )
    return [
        (point.config, point.mac_reduction, point.output_error, point.agreement or 0.0)
        for point in found.pareto
        if point.mac_reduction > 0
    ]


def around(points: Sequence[Point], limit: float) -> list[Point]:
    """The points on either side of where a rule loses ``limit`` points, by the half that settings are chosen on."""
    order = sorted(points, key=lambda point: point.mean("net", "whole"))
    below = [point for point in order if point.mean("lost", "chosen_on") <= limit]
    above = [point for point in order if point.mean("lost", "chosen_on") > limit]
    later = [point for point in above if not below or point.mean("net", "whole") > below[-1].mean("net", "whole")]
    return below[-1:] + later[:1]


def reduction_at(points: Sequence[Point], limit: float) -> float:
    """Net reduction where a rule loses ``limit`` points on the held-out half, between two of its points on a line.

    NaN where no point loses so little; where none loses more, the largest reduction.
    """
    curve = sorted((point.mean("net"), point.mean("lost")) for point in points)
    inside = [i for i, (_, lost) in enumerate(curve) if lost <= limit]
    if not inside:
        return math.nan
    (net, lost), rest = curve[inside[-1]], curve[inside[-1] + 1 :]
    if not rest:
        return net
    further, more = rest[0]
    return net + (further - net) * (limit - lost) / (more - lost)


def loss_at(points: Sequence[Point], net: float) -> float:
    """Points lost on the held-out half where a rule saves ``net``, on a line between its points; NaN past the last."""
    curve = [(0.0, 0.0), *sorted((point.mean("net"), point.mean("lost")) for point in points)]
    for (left, low), (right, high) in itertools.pairwise(curve):
        if left <= net <= right:
            return low + (high - low) * (net - left) / (right - left) if right > left else low
    return math.nan


class Study:
    """One network on its images.

    Args:
        workload: network and images.
        seeds: how many, from 0 on.
        screen: images that all settings are tried on.
        limit: points of accuracy that may be lost.
        patches: patch sizes that are tried.
        tick: called with what is being done.
    """

    def __init__(
        self,
        workload: Workload,
        seeds: int,
        screen: int,
        limit: float,
        patches: Sequence[int],
        tick: Callable[[str], None] = lambda doing: None,
    ) -> None:
        self.workload, self.seeds, self.limit, self.patches, self._tick = workload, seeds, limit, patches, tick
        self._screen = workload.rows(slice(0, None, 2)).rows(slice(0, screen))
        self._evaluator = Evaluator(workload.model, tick=tick)
        self.screened: list[tuple[str, HasteConfig, Outcome]] = []
        self.points: list[Point] = []

    def run(self, rules: Sequence[str], most: int, save: Callable[[], None] = lambda: None) -> None:
        """Screen every rule, run at most ``most`` settings of each on all images, those at the limit with all seeds.

        Args:
            rules: of ``RULES``.
            most: settings.
            save: called whenever there is something new, since all of it takes long.
        """
        for rule in rules:
            tried = self._screened(rule)
            kept = [tried[i] for i in undominated([(net, error) for _, net, error, _ in tried])]
            # Taken to lose about the limit: of the images that change class, about a third was right.
            kept.sort(key=lambda trial: abs(math.log(max(1 - trial[3], 1e-3) * 100 / (3 * self.limit))))
            for config, *_ in kept[:most]:
                self.points.append(Point(rule, config, *([outcome] for outcome in self._outcomes(config))))
                save()
        for rule in rules:
            for point in around([point for point in self.points if point.rule == rule], self.limit):
                where = self.points.index(point)
                for seed in range(1, self.seeds):
                    more = self._outcomes(point.config.replace(seed=seed))
                    parts = (point.chosen_on, point.held_out, point.whole)
                    point = Point(rule, point.config, *([*old, new] for old, new in zip(parts, more, strict=True)))
                    self.points[where] = point
                    save()

    def _screened(self, rule: str) -> list[tuple[HasteConfig, float, float, float]]:
        """What one rule does on the images to screen on: configurations, net reductions, errors, agreements."""
        if rule == "search":
            self._tick("searching settings by layer")
            return searched(self._screen, self.limit, self.patches)
        tried = []
        for config in published(self.patches) if rule == "published" else uniform(self.patches):
            outcome = self._evaluator.run(self._screen, config).outcome(self._screen)
            self.screened.append((rule, config, outcome))
            tried.append((config, outcome.net, outcome.error, outcome.agreement))
        return tried

    def _outcomes(self, config: HasteConfig) -> tuple[Outcome, Outcome, Outcome]:
        answers = self._evaluator.run(self.workload, config)
        parts = (slice(0, None, 2), slice(1, None, 2), slice(None))
        chosen_on, held_out, whole = (answers.outcome(self.workload, part) for part in parts)
        return chosen_on, held_out, whole

    def of(self, *rules: str) -> list[Point]:
        """The points of these rules that none of them beats, by the half that settings are chosen on."""
        points = [point for point in self.points if point.rule in rules]
        return [points[i] for i in undominated([(p.mean("net"), p.mean("lost", "chosen_on")) for p in points])]

    def answers(self) -> dict[str, float]:
        """What the study is for: reductions at the limit and their ratio, and our loss at the published reduction."""
        theirs, ours = self.of("published"), self.of("uniform", "search")
        at = reduction_at(theirs, self.limit)
        best = reduction_at(ours, self.limit)
        return {
            "published_reduction": at,
            "our_reduction": best,
            "our_reduction_one_setting": reduction_at(self.of("uniform"), self.limit),
            "ratio": best / at if at > 0 else math.nan,
            "our_loss_at_published_reduction": loss_at(ours, at),
        }

    def markdown(self) -> str:
        """Every point that was run on all images, as a table; "points lost" and "agreement" are the held-out half's."""
        lines = ["| " + " | ".join(_HEADINGS) + " |", "|---|---" + "|---:" * (len(_HEADINGS) - 2) + "|"]
        return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in self.rows()])

    def rows(self) -> list[list[str]]:
        """The table's cells, by rule and reduction."""
        order = sorted(self.points, key=lambda p: (list(RULES).index(p.rule), p.mean("net")))
        return [
            [
                RULES[p.rule],
                describe(p.config),
                str(len(p.held_out)),
                f"{100 * p.mean('net'):.1f} ± {100 * p.spread('net'):.1f}",
                f"{100 * p.mean('gross'):.1f}",
                f"{100 * p.mean('kept'):.1f}",
                f"{p.mean('lost'):.2f} ± {p.spread('lost'):.2f}",
                f"{p.mean('lost', 'whole'):.2f} ± {p.spread('lost', 'whole'):.2f}",
                f"{100 * p.mean('agreement'):.1f}",
                f"{p.mean('error'):.3f}",
            ]
            for p in order
        ]

    def to_dict(self) -> dict[str, Any]:
        """Everything that was measured, as JSON takes it."""
        screened = [
            {"rule": rule, "config": config.to_dict(), "outcome": dataclasses.asdict(outcome)}
            for rule, config, outcome in self.screened
        ]
        answers = {name: None if math.isnan(value) else value for name, value in self.answers().items()}
        return {
            "network": self.workload.name,
            "images": len(self.workload.pixels),
            "limit": self.limit,
            "answers": answers,
            "points": [point.to_dict() for point in self.points],
            "screened": screened,
        }


_HEADINGS = (
    "rule",
    "setting",
    "seeds",
    "net reduction, %",
    "without overheads, %",
    "channels kept, %",
    "points lost",
    "on all images",
    "agreement, %",
    "output error",
)


def plot(study: Study, path: Path) -> None:
    """Draw points lost over the net reduction; error bars are standard deviations over the seeds."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    for rule, title in RULES.items():
        points = study.of(rule)
        if points:
            axes.errorbar(
                [100 * p.mean("net") for p in points],
                [p.mean("lost") for p in points],
                [p.spread("lost") for p in points],
                [100 * p.spread("net") for p in points],
                marker="o",
                capsize=2,
                label=title,
            )
    axes.axhline(study.limit, color="grey", linestyle=":", linewidth=1)
    axes.set_xlabel("net reduction of the network's multiply-adds, %")
    axes.set_ylabel("points of accuracy lost" if study.workload.labels is not None else "points of agreement lost")
    axes.set_title(f"{study.workload.name}, {len(study.workload.pixels) // 2} held-out images")
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path)


def main() -> int:
    """Study what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pareto", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--network", default="resnet18", help=(load.__doc__ or "").split("network: ")[1].split("\n")[0])
    parser.add_argument("--images", default="cifar", help='"cifar", or a folder of images, by class or without')
    parser.add_argument("--limit", type=int, default=10_000, help="most images")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--screen", type=int, default=500, help="images that every setting is tried on")
    parser.add_argument("--points", type=int, default=5, help="settings of each rule that are run on all images")
    parser.add_argument("--drop", type=float, default=1.25, help="points of accuracy that may be lost")
    parser.add_argument("--patches", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--rules", nargs="+", choices=list(RULES), default=list(RULES))
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--json", type=Path, help="also write everything to this file")
    parser.add_argument("--plot", type=Path, help="draw the curves into this file (.svg, .png)")
    given = parser.parse_args()
    if min(given.limit, given.seeds, given.screen, given.points, given.batch) < 1 or given.drop <= 0:
        parser.error("--limit, --seeds, --screen, --points and --batch must be at least 1, --drop above 0")
    try:
        workload = load(given.network, given.images, given.limit, given.batch)
    except AbsentError as error:
        print(error, file=sys.stderr)
        return 1

    began = time.perf_counter()
    study = Study(workload, given.seeds, given.screen, given.drop, given.patches, tick)

    def save() -> None:
        if given.json:
            stored = {"machine": machine(), "seconds": time.perf_counter() - began, **study.to_dict()}
            given.json.write_text(json.dumps(stored, indent=1, allow_nan=False) + "\n")

    study.run(given.rules, given.points, save)
    tick("")
    print(f"{workload.name}, {len(workload.pixels)} images\n\n{study.markdown()}\n")
    for name, value in study.answers().items():
        print(f"{name.replace('_', ' ')}: {value:.3f}")
    if given.plot:
        plot(study, given.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
