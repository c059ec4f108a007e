"""Time compiled networks beside what else a user could pick, on this machine's CPU: `python -m benchmarks.peers`.

Networks × batches × numbers of threads × competitors, each row of the tables from one process in which all competitors
take turns. With `--layers`: how far every layer of our dense compile is from what the machine can do.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks import cases, competitors, roofline, runners, searched, worker
from benchmarks.report import Result, machine, markdown, plot

QUICK = ["cifar_resnet18", "conv_half_duplicated", "conv_none_duplicated"]
"""Networks of ``--quick``."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--networks",
        nargs="+",
        choices=list(cases.CASES),
        metavar="NAME",
        help=f"of {', '.join(cases.CASES)}; default: {', '.join(cases.USUAL)}, with --quick: {', '.join(QUICK)}, "
        f"with --int8: {', '.join(cases.INT8)}",
    )
    parser.add_argument("--batches", nargs="+", type=int, metavar="N", help="default: 1 4 16; with --quick: 1")
    parser.add_argument("--threads", nargs="+", type=int, metavar="N", help="default: 1 2; with --quick: 1")
    parser.add_argument(
        "--competitors",
        nargs="+",
        choices=list(competitors.TITLES),
        metavar="NAME",
        help="; ".join(f"{name}: {title}" for name, title in competitors.TITLES.items()) + "; default: all but those "
        "in int8, with --quick nothing is searched; with --int8: what is dense",
    )
    parser.add_argument("--int8", action="store_true", help="add the competitors in int8")
    parser.add_argument(
        "--accuracy",
        action="store_true",
        help=f"check outputs on all images, where they have labels: {', '.join(cases.ALL_IMAGES)}",
    )
    parser.add_argument("--rounds", type=int, help="how often each is timed; default: 20, with --quick: 8")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="time that all of it may take, about")
    parser.add_argument("--quick", action="store_true", help="only what is small, one thread, batch 1, few rounds")
    parser.add_argument("--memory", action="store_true", help="also measure each competitor's peak memory (Linux)")
    parser.add_argument("--layers", action="store_true", help="instead: each layer's distance to the machine's peaks")
    parser.add_argument("--out", type=Path, default=Path("build/peers"), help="folder of the results: %(default)s")
    parser.add_argument("--json", type=Path, help="file of all numbers; default: peers.json in --out")
    parser.add_argument("--searched", type=Path, help="file of what was searched; default: searched.json in --out")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what the command line asks for; 1 if anything failed or came out wrong."""
    parser = _parser()
    given = parser.parse_args(arguments)
    given.networks = given.networks or (QUICK if given.quick else list(cases.INT8 if given.int8 else cases.USUAL))
    given.batches = given.batches or ([1] if given.quick else [1, 4, 16])
    given.threads = given.threads or ([1] if given.quick else [1, 2])
    given.competitors = _competitors(given)
    if given.rounds is None:
        given.rounds = 8 if given.quick else 20
    if min(given.rounds, *given.threads, *given.batches) < 1 or max(given.batches) > cases.MOST_IMAGES:
        parser.error(f"--rounds, --threads and --batches must be at least 1, --batches at most {cases.MOST_IMAGES}")
    end = time.monotonic() + given.seconds
    given.out.mkdir(parents=True, exist_ok=True)
    given.searched = (given.searched or given.out / "searched.json").absolute()
    if given.layers:
        text, stored = roofline.study(given.networks, given.batches, given.threads, given.rounds, end)
        _write(given, "layers", text, stored)
        print(text)
        return 0
    _search(given)
    results = _measure(given, end)
    print(markdown(results))
    return int(any(r.failure or any(m.failure for m in r.measurements) for r in results))


def _competitors(given: argparse.Namespace) -> list[str]:
    """Names of the competitors that the command line asks for, in the tables' order."""
    if given.competitors is not None:
        wanted = set(given.competitors)
    elif given.int8:
        wanted = set(competitors.EXACT)
    else:
        wanted = competitors.TITLES.keys() - set(competitors.INT8) - ({"searched"} if given.quick else set())
    if given.int8:
        wanted.update(competitors.INT8)
    return [name for name in competitors.TITLES if name in wanted]


def _write(given: argparse.Namespace, name: str, text: str, results: Sequence[dict[str, Any]]) -> None:
    stored = {"machine": machine(), "results": results}
    (given.json or given.out / f"{name}.json").write_text(json.dumps(stored, indent=1, allow_nan=False) + "\n")
    (given.out / f"{name}.md").write_text(text)


def _search(given: argparse.Namespace) -> None:
    """Search, in a process each, the configurations that are wanted and not in the file yet."""
    for case in given.networks:
        wanted = "searched" in given.competitors and case in cases.TRAINED
        if wanted and searched.read(given.searched, case) is None:
            print(f"searching a configuration for {case}", file=sys.stderr)
            command = [sys.executable, "-m", "benchmarks.searched", case, str(given.searched)]
            if subprocess.run(command, env=runners.thread_environment(max(given.threads)), check=False).returncode:
                print(f"the search for {case} failed: its competitor is left out", file=sys.stderr)


def _measure(given: argparse.Namespace, end: float) -> list[Result]:
    """Every case, batch and number of threads, with a progress bar; the time that is left is shared evenly.

    What was measured so far is written after each.
    """
    cells = [(c, b, t) for c in given.networks for b in given.batches for t in given.threads]
    results: list[Result] = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=len(cells))
        for number, (case, batch, threads) in enumerate(cells):
            label = f"{case}, batch {batch}, {threads} threads"

            def tick(doing: str, part: float, label: str = label, number: int = number) -> None:
                bar.update(task, description=f"{label}: {doing}", completed=number + part)

            left = end - time.monotonic()
            if left > 0:
                tick("starting", 0.0)
                share = left / (len(cells) - number)
                names = given.competitors
                file, every = str(given.searched), given.accuracy
                work = worker.Work(case, batch, threads, names, given.rounds, share, file, every)
                result = worker.run(work, tick)
                if given.memory:
                    tick("measuring memory", 1.0)
                    result = worker.add_memory(result, given.searched)
            else:
                result = Result(case, batch, threads, [], absent="no time was left")
            results.append(result)
            bar.update(task, completed=number + 1)
            _write(given, "peers", markdown(results), [each.to_dict() for each in results])
    plot(results, given.out / "peers.svg")
    return results


if __name__ == "__main__":
    sys.exit(main())
