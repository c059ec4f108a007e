"""Time compiled networks beside what else a user could pick, on this machine's CPU: `python -m benchmarks.cpu`.

Every case and number of threads has a process of its own, started with the number of threads in its environment, since
most thread pools read it once. Within a process all runners are timed in turns.
"""

import argparse
import json
import logging
import subprocess
import sys
import tempfile
import warnings
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from benchmarks import cases, runners
from benchmarks.measure import Measurement, measure
from benchmarks.progress import tick
from benchmarks.report import Result, machine, markdown, table

QUICK_CASES = ["cifar_resnet18", "conv_half_duplicated", "conv_none_duplicated"]


def _work(case: str, threads: int, rounds: int, names: list[str], out: Path) -> None:
    """Measure one case in this process and leave the result at `out`."""
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)

    def show(doing: str) -> None:
        tick(f"{case}, {threads} threads: {doing}")

    try:
        built = cases.CASES[case]()
    except cases.AbsentError as error:
        result = Result(case, threads, rounds, [], absent=str(error))
    else:
        wanted = [name for name in names if name in runners.PEERS or name in built.ours]
        result = Result(case, threads, rounds, measure(built, wanted, threads, rounds, show))
    tick("")
    out.write_text(json.dumps(result.to_dict()))


def _measurement(stored: dict[str, float | str | None]) -> Measurement:
    return Measurement(**{k: float("nan") if v is None else v for k, v in stored.items()})  # type: ignore[arg-type]


def run(case: str, threads: int, rounds: int, names: list[str]) -> Result:
    """Measure one case in a process of its own.

    Args:
        case: one of `cases.CASES`.
        threads: of every runner.
        rounds: how often each runner is timed.
        names: of runners; those of ours that the case does not ask for are left out.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "result.json"
        command = [sys.executable, "-m", "benchmarks.cpu", "--worker", str(out), "--networks", case]
        command += ["--threads", str(threads), "--rounds", str(rounds), "--runners", *names]
        done = subprocess.run(command, env=runners.thread_environment(threads), stdout=subprocess.DEVNULL, check=False)
        if done.returncode or not out.exists():
            return Result(case, threads, rounds, [], failure=f"the process ended with status {done.returncode}")
        stored = json.loads(out.read_text())
    return Result(case, threads, rounds, [_measurement(m) for m in stored["measurements"]], absent=stored["absent"])


def add_memory(result: Result) -> Result:
    """Measure the memory of every runner that was timed, in a process of its own each."""
    measurements = []
    for m in result.measurements:
        if not m.failure:
            command = [sys.executable, "-m", "benchmarks.memory", result.case, m.runner, str(result.threads)]
            environment = runners.thread_environment(result.threads)
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
            if done.returncode:
                m = replace(m, failure=f"memory: the process ended with status {done.returncode}")
            else:
                found = json.loads(done.stdout.strip().splitlines()[-1])
                m = replace(m, peak=found["running"], preparing=found["preparing"], planned=found["planned"])
        measurements.append(m)
    return replace(result, measurements=measurements)


def main() -> int:
    """Measure what the command line asks for; 1 if anything failed or came out wrong."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cpu", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--networks", nargs="+", choices=list(cases.CASES), metavar="NAME", help="; ".join(cases.CASES))
    parser.add_argument("--runners", nargs="+", choices=list(runners.TITLES), default=list(runners.TITLES))
    parser.add_argument("--threads", nargs="+", type=int, help="default: 1 2; with --quick: 1")
    parser.add_argument("--rounds", type=int, help="default: 30; with --quick: 8")
    parser.add_argument("--quick", action="store_true", help="only the small cases, one thread, few rounds")
    parser.add_argument("--memory", action="store_true", help="also measure each runner's peak memory (Linux)")
    parser.add_argument("--json", type=Path, help="also write everything to this file")
    parser.add_argument("--markdown", type=Path, help="also write the Markdown to this file")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    networks = arguments.networks or (QUICK_CASES if arguments.quick else list(cases.CASES))
    threads = arguments.threads or ([1] if arguments.quick else [1, 2])
    rounds = arguments.rounds or (8 if arguments.quick else 30)
    if rounds < 1 or min(threads) < 1:
        parser.error("--rounds and --threads must be at least 1")

    if arguments.worker:
        _work(networks[0], threads[0], rounds, arguments.runners, arguments.worker)
        return 0

    console = Console()
    results = []
    for case in networks:
        for count in threads:
            result = run(case, count, rounds, arguments.runners)
            results.append(add_memory(result) if arguments.memory else result)
            console.print(table(results[-1]))
    text = markdown(results)
    print(text)
    if arguments.markdown:
        arguments.markdown.write_text(text)
    if arguments.json:
        stored = {"machine": machine(), "results": [r.to_dict() for r in results]}
        arguments.json.write_text(json.dumps(stored, indent=2) + "\n")
    return int(any(r.failure or any(m.failure for m in r.measurements) for r in results))


if __name__ == "__main__":
    sys.exit(main())
