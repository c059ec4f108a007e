"""Accuracy against multiply-adds, the published rule's curve and ours: `python -m benchmarks.pareto`.

Both rules are treated alike. Settings are screened on some images of one half of them, with one seed; those around the
limit are run on all images with every seed. Curves are made of the points that are best on the first half, and read on
the other one. Given `--json`, an interrupted study goes on where it stopped.
"""

import argparse
import dataclasses
import itertools
import json
import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

import haste_compiler
from benchmarks.cases import AbsentError
from benchmarks.evaluation import Evaluator, Outcome, Workload, describe, load, undominated
from benchmarks.report import machine, plain
from haste_compiler import HasteConfig

RULES = {"published": "published rule", "search": "ours, by layer", "uniform": "ours, one setting"}
OURS = ("search", "uniform")

PARTS = {"chosen_on": slice(0, None, 2), "held_out": slice(1, None, 2), "whole": slice(None)}
"""Images that settings are chosen on, the others, and both."""

SEARCHED_ON = 512
"""Images that a search is given, without their labels."""

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
_CHANGED_BY_LOST = 5
"""Of the images that change class, about one in so many was right before: to guess the points lost with few images."""

_APART = 0.007
"""Least difference in the net reduction of two points of a curve."""


@dataclass(frozen=True)
class Run:
    """One configuration, its seed included, on all images.

    Attributes:
        rule: one of ``RULES``.
        config: what was run.
        chosen_on: outcome on the half that settings are chosen on.
        held_out: outcome on the other half.
        whole: outcome on both.
    """

    rule: str
    config: HasteConfig
    chosen_on: Outcome
    held_out: Outcome
    whole: Outcome

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        parts = {name: dataclasses.asdict(getattr(self, name)) for name in PARTS}
        return {"rule": self.rule, "config": self.config.to_dict(), **parts}

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> "Run":
        """What ``to_dict`` wrote."""
        parts = {name: Outcome(**stored[name]) for name in PARTS}
        return cls(stored["rule"], HasteConfig.from_dict(stored["config"]), **parts)


@dataclass(frozen=True)
class Point:
    """One setting of one rule: its runs with all seeds."""

    rule: str
    runs: tuple[Run, ...]

    @property
    def config(self) -> HasteConfig:
        """The configuration with the first seed."""
        return self.runs[0].config

    def mean(self, name: str, part: str = "held_out") -> float:
        """Mean over the seeds of one number of the outcomes on one part of the images."""
        return statistics.fmean(self._numbers(name, part))

    def spread(self, name: str, part: str = "held_out") -> float:
        """Standard deviation over the seeds; 0 for one seed."""
        numbers = self._numbers(name, part)
        return statistics.stdev(numbers) if len(numbers) > 1 else 0.0

    def with_seed(self, seed: int) -> "Point":
        """Only the run with one seed; none where there is no such run."""
        return Point(self.rule, tuple(run for run in self.runs if run.config.seed == seed))

    def _numbers(self, name: str, part: str) -> list[float]:
        return [getattr(getattr(run, part), name) for run in self.runs]


@dataclass
class Record:
    """What has been measured so far, and the file that keeps it.

    Attributes:
        path: of the file; None: nothing is kept.
        about: network, images and how they are used; a file about something else isn't gone on with.
        screened: each rule's settings with the first seed, on few images.
        searches: each search's budget, time, images and what it chose.
        runs: on all images.
    """

    path: Path | None
    about: dict[str, Any]
    screened: list[tuple[str, HasteConfig, Outcome]] = field(default_factory=list)
    searches: list[dict[str, Any]] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)

    @classmethod
    def open(cls, path: Path | None, about: dict[str, Any]) -> "Record":
        """Read a file, or begin a record.

        Raises:
            ValueError: the file is about something else.
        """
        record = cls(path, about)
        if path is not None and path.exists():
            stored = json.loads(path.read_text())
            if stored.get("about") != about:
                raise ValueError(f"{path} is a study of {stored.get('about')}, not of {about}: give another file")
            record.screened = [
                (rule, HasteConfig.from_dict(config), Outcome(**outcome))
                for rule, config, outcome in stored["screened"]
            ]
            record.searches = stored["searches"]
            record.runs = [Run.from_dict(run) for run in stored["runs"]]
        return record

    def save(self, **more: Any) -> None:
        """Write the file anew."""
        if self.path is None:
            return
        screened = [(rule, config.to_dict(), dataclasses.asdict(outcome)) for rule, config, outcome in self.screened]
        runs = [run.to_dict() for run in self.runs]
        stored = {"about": self.about, "machine": machine(), **more, "screened": screened}
        made = self.path.with_suffix(f".{os.getpid()}")
        made.write_text(
            json.dumps({**stored, "searches": self.searches, "runs": runs}, indent=1, allow_nan=False) + "\n"
        )
        os.replace(made, self.path)

    def points(self, *rules: str) -> list[Point]:
        """Every setting that was run on all images, its seeds together."""
        together: dict[tuple[str, HasteConfig], list[Run]] = {}
        for run in self.runs:
            if run.rule in rules:
                together.setdefault((run.rule, run.config.replace(seed=0)), []).append(run)
        return [
            Point(rule, tuple(sorted(runs, key=lambda run: run.config.seed))) for (rule, _), runs in together.items()
        ]


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


def curve(points: Sequence[Point], part: str = "held_out", chosen_on: str = "chosen_on") -> list[tuple[float, float]]:
    """A rule's (net reduction, points lost) on one part of the images, by rising reduction, from (0, 0).

    Made of the points that no other beats on the part that settings are chosen on, which may be the same one.
    """
    best = undominated([(p.mean("net", chosen_on), p.mean("lost", chosen_on)) for p in points])
    return [(0.0, 0.0), *sorted((points[i].mean("net", part), points[i].mean("lost", part)) for i in best)]


def reduction_at(line: Sequence[tuple[float, float]], limit: float) -> float:
    """Net reduction from which on a curve loses more than ``limit`` points, on a line between its points.

    Where no point loses more, the largest reduction.
    """
    last = max(i for i, (_, lost) in enumerate(line) if lost <= limit)
    if last == len(line) - 1:
        return line[last][0]
    (net, lost), (further, more) = line[last : last + 2]
    return net + (further - net) * (limit - lost) / (more - lost)


def loss_at(line: Sequence[tuple[float, float]], net: float) -> float:
    """Points lost where a curve saves ``net``, on a line between its points; NaN past the last."""
    for (left, low), (right, high) in itertools.pairwise(line):
        if left <= net <= right:
            return low + (high - low) * (net - left) / (right - left) if right > left else low
    return math.nan


def best_point(points: Sequence[Point], limit: float, chosen_on: str) -> Point | None:
    """The point that saves most among those that lose at most ``limit`` points on one part of the images."""
    within = [point for point in points if point.mean("lost", chosen_on) <= limit]
    return max(within, key=lambda point: point.mean("net", chosen_on), default=None)


class OutOfTimeError(Exception):
    """There is no time to begin anything more."""


@dataclass(frozen=True)
class Scope:
    """How much is tried.

    Attributes:
        seeds: how many, from 0 on.
        screen: images that all settings are tried on.
        limit: points of accuracy that may be lost.
        patches: patch sizes that are tried.
        budgets: accuracy drops that are searched for, in points.
    """

    seeds: int
    screen: int
    limit: float
    patches: Sequence[int]
    budgets: Sequence[float]


class Study:
    """One network on its images.

    Args:
        workload: network and images.
        record: of what was measured before.
        scope: how much is tried.
        until: when to begin nothing more, as ``time.perf_counter()`` tells it.
        tick: called with what is being done, and how many of how many steps are done.
    """

    def __init__(
        self,
        workload: Workload,
        record: Record,
        scope: Scope,
        until: float = math.inf,
        tick: Callable[[str, int, int], None] = lambda doing, done, total: None,
    ) -> None:
        self.workload, self.record, self.scope = workload, record, scope
        self._until, self._tick = until, tick
        self._half = workload.rows(PARTS["chosen_on"])
        self._screen = self._half.rows(slice(0, scope.screen))
        self._steps = (0, 0)
        self._evaluator = Evaluator(workload.model, tick=lambda doing: tick(doing, *self._steps))

    def run(self, rules: Sequence[str], most: int) -> None:
        """Screen every rule, then run at most ``most`` settings of each on all images with each seed.

        Raises:
            OutOfTimeError: what was measured until then is in the record.
        """
        settings = [(rule, config) for rule in rules for config in self._promising(rule, most)]
        # What can be steered is run together, so that it is compiled once.
        settings.sort(key=lambda each: (list(rules).index(each[0]), str(each[1].patch_size)))
        todo = [(rule, config.replace(seed=seed)) for seed in range(self.scope.seeds) for rule, config in settings]
        done = {(run.rule, run.config) for run in self.record.runs}
        for number, (rule, config) in enumerate(todo):
            self._begin(number, len(todo))
            if (rule, config) not in done:
                answers = self._evaluator.run(self.workload, config)
                parts = {name: answers.outcome(self.workload, part) for name, part in PARTS.items()}
                self.record.runs.append(Run(rule, config, **parts))
                self.save()

    def save(self) -> None:
        """Write down what there is."""
        self.record.save(answers=plain(self.answers()))

    def _begin(self, done: int, total: int) -> None:
        self._steps = (done, total)
        if time.perf_counter() >= self._until:
            raise OutOfTimeError

    def _promising(self, rule: str, most: int) -> list[HasteConfig]:
        """Settings of one rule around the limit, as the images that it is screened on let one guess."""
        tried = self._screened(rule)
        kept = [tried[i] for i in undominated([(outcome.net, 1 - outcome.agreement) for _, outcome in tried])]
        changed = _CHANGED_BY_LOST * self.scope.limit / 100
        kept.sort(key=lambda trial: abs(math.log(max(1 - trial[1].agreement, 1e-3) / changed)))
        spread: list[tuple[HasteConfig, Outcome]] = []
        for config, outcome in kept:
            if all(abs(outcome.net - other.net) >= _APART for _, other in spread):
                spread.append((config, outcome))
        return [config for config, _ in spread[:most]]

    def _screened(self, rule: str) -> list[tuple[HasteConfig, Outcome]]:
        """What each setting of a rule does on the images to screen on."""
        settings = {"published": published, "uniform": uniform}.get(rule, self._searched)(self.scope.patches)
        known = {config: outcome for name, config, outcome in self.record.screened if name == rule}
        for number, config in enumerate(settings):
            self._begin(number, len(settings))
            if config not in known:
                known[config] = self._evaluator.run(self._screen, config).outcome(self._screen)
                self.record.screened.append((rule, config, known[config]))
                self.save()
        return [(config, known[config]) for config in settings]

    def _searched(self, patches: Sequence[int]) -> list[HasteConfig]:
        """Settings by layer: what searches for several budgets found, on images of the half to choose on."""
        images = self._half.rows(slice(0, SEARCHED_ON))
        for number, budget in enumerate(self.scope.budgets):
            self._begin(number, len(self.scope.budgets))
            if any(each["budget"] == budget for each in self.record.searches):
                continue
            self._tick(f"searching for a drop of {budget:g} points", *self._steps)
            found = haste_compiler.search(
                self.workload.model,
                images.normalise(images.pixels),
                max_accuracy_drop=budget / 100,
                patches=patches[:2],
                config=HasteConfig(cost_model=False),
                progress=False,
            )
            points = [point for point in found.pareto if point.mac_reduction > 0]
            self.record.searches.append(
                {
                    "budget": budget,
                    "images": len(images.pixels),
                    "seconds": found.seconds,
                    "chosen": found.config.to_dict(),
                    "points": [point.config.to_dict() for point in points],
                }
            )
            self.save()
        every = [HasteConfig.from_dict(config) for each in self.record.searches for config in each["points"]]
        return list(dict.fromkeys(every))

    def answers(self) -> dict[str, Any]:
        """What the study is for, read on the half that nothing was chosen on, and in hindsight on all images."""
        answers: dict[str, Any] = {}
        sides = {"published": ("published",), "ours": OURS, "ours_one_setting": ("uniform",)}
        sides = {name: rules for name, rules in sides.items() if self.record.points(*rules)}
        for read, chosen in (("held_out", "chosen_on"), ("whole", "whole")):
            lines = {name: curve(self.record.points(*rules), read, chosen) for name, rules in sides.items()}
            found: dict[str, Any] = {name: reduction_at(line, self.scope.limit) for name, line in lines.items()}
            if {"published", "ours"} <= set(found):
                found["ratio"] = found["ours"] / found["published"] if found["published"] else math.nan
                found["our_loss_where_published_is_at_the_limit"] = loss_at(lines["ours"], found["published"])
                found["ratio_by_seed"] = [self._ratio(seed, read, chosen) for seed in self._complete_seeds()]
            for name, rules in sides.items():
                point = best_point(self.record.points(*rules), self.scope.limit, chosen)
                if point is not None:
                    found[f"{name}_best_point"] = [point.mean("net", read), point.mean("lost", read)]
            answers[read] = found
        return answers

    def _complete_seeds(self) -> list[int]:
        points = self.record.points(*RULES)
        seeds = [{run.config.seed for run in point.runs} for point in points]
        return sorted(set.intersection(*seeds)) if seeds else []

    def _ratio(self, seed: int, read: str, chosen: str) -> float:
        theirs, ours = (
            reduction_at(curve([p.with_seed(seed) for p in self.record.points(*rules)], read, chosen), self.scope.limit)
            for rules in (("published",), OURS)
        )
        return ours / theirs if theirs else math.nan

    def markdown(self) -> str:
        """Every point that was run on all images, as a table."""
        lines = ["| " + " | ".join(_HEADINGS) + " |", "|---|---" + "|---:" * (len(_HEADINGS) - 2) + "|"]
        return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in self.rows()])

    def rows(self) -> list[list[str]]:
        """The table's cells, by rule and reduction."""
        points = [point for rule in RULES for point in self.record.points(rule)]
        order = sorted(points, key=lambda p: (list(RULES).index(p.rule), p.mean("net")))
        return [
            [
                RULES[p.rule],
                describe(p.config),
                str(len(p.runs)),
                f"{100 * p.mean('net'):.1f} ± {100 * p.spread('net'):.1f}",
                f"{100 * p.mean('gross'):.1f}",
                f"{100 * p.mean('kept'):.1f}",
                f"{p.mean('lost'):.2f} ± {p.spread('lost'):.2f}",
                f"{p.mean('lost', 'whole'):.2f} ± {p.spread('lost', 'whole'):.2f}",
                f"{100 * p.mean('agreement', 'whole'):.1f}",
                f"{p.mean('error', 'whole'):.3f}",
            ]
            for p in order
        ]


_HEADINGS = (
    "rule",
    "setting",
    "seeds",
    "net reduction, %",
    "without overheads, %",
    "channels kept, %",
    "points lost, held out",
    "points lost, all",
    "agreement, %",
    "output error",
)


def written(answers: dict[str, Any]) -> str:
    """The answers as lines of text."""
    lines = []
    for part, numbers in answers.items():
        lines.append("chosen on one half, read on the other:" if part == "held_out" else "in hindsight, all images:")
        for name, value in numbers.items():
            values = value if isinstance(value, list) else [value]
            text = ", ".join(f"{each:.3f}" for each in values)
            if name == "ratio_by_seed" and len(values) > 1:
                text += f" (mean {statistics.fmean(values):.3f}, deviation {statistics.stdev(values):.3f})"
            lines.append(f"  {name.replace('_', ' ')}: {text}")
    return "\n".join(lines)


def plot(study: Study, path: Path) -> None:
    """Draw points lost over the net reduction; error bars are standard deviations over the seeds."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    for rule, title in RULES.items():
        points = sorted(study.record.points(rule), key=lambda point: point.mean("net"))
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
    axes.axhline(study.scope.limit, color="grey", linestyle=":", linewidth=1)
    axes.set_xlabel("net reduction of the network's multiply-adds, %")
    axes.set_ylabel("points of accuracy lost" if study.workload.labels is not None else "points of agreement lost")
    axes.set_title(f"{study.workload.name}, {len(study.workload.pixels) // 2} held-out images")
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path)


@contextmanager
def progress() -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar on standard error, and what moves it."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda doing, done, total: bar.update(task, description=doing, completed=done, total=total or None)


def main() -> int:
    """Study what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pareto", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--network", default="resnet18", help=(load.__doc__ or "").split("network: ")[1].split("\n")[0])
    parser.add_argument("--images", default="cifar", help='"cifar", or a folder of images, by class or without')
    parser.add_argument("--limit", type=int, default=10_000, help="most images")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--screen", type=int, default=1000, help="images that every setting is tried on")
    parser.add_argument("--points", type=int, default=5, help="settings of each rule that are run on all images")
    parser.add_argument("--drop", type=float, default=1.25, help="points of accuracy that may be lost")
    parser.add_argument("--patches", type=int, nargs="+", default=[2, 4, 8], help="a search tries the first two")
    parser.add_argument(
        "--budgets", type=float, nargs="+", help="points that searches may lose (default: around --drop)"
    )
    parser.add_argument("--rules", nargs="+", choices=list(RULES), default=list(RULES))
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=math.inf, help="begin nothing more after so long")
    parser.add_argument("--json", type=Path, help="keep everything in this file, and go on from it")
    parser.add_argument("--plot", type=Path, help="draw the curves into this file (.svg, .png)")
    given = parser.parse_args()
    if min(given.limit, given.seeds, given.screen, given.points, given.batch) < 1 or given.drop <= 0:
        parser.error("--limit, --seeds, --screen, --points and --batch must be at least 1, --drop above 0")
    budgets = given.budgets or [part * given.drop for part in (0.8, 1.6, 2.8)]
    until = time.perf_counter() + given.seconds
    about = {"network": given.network, "images": given.images, "limit": given.limit, "screen": given.screen}
    try:
        workload = load(given.network, given.images, given.limit, given.batch)
        record = Record.open(given.json, {**about, "drop": given.drop})
    except (AbsentError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1

    complete = True
    with progress() as tick:
        scope = Scope(given.seeds, given.screen, given.drop, given.patches, budgets)
        study = Study(workload, record, scope, until, tick)
        try:
            study.run(given.rules, given.points)
        except OutOfTimeError:
            complete = False
    study.save()
    print(f"{workload.name}, {len(workload.pixels)} images\n\n{study.markdown()}\n\n{written(study.answers())}")
    if not complete:
        print("out of time: the same command with --json goes on")
    if given.plot:
        plot(study, given.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
