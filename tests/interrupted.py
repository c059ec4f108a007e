"""Compiling while SIGINT comes at random instants, in a process of its own: `python -m tests.interrupted TIMES`."""

import json
import os
import random
import signal
import sys
import threading
import time
from typing import Any

LONGEST = 3.0
"""Seconds within which the signal comes: the first compile with its imports takes longer, later ones less."""


def compile_and_call() -> Any:
    """Import the compiler if need be, compile a small network anew, and call it."""
    import haste_compiler

    compile, config = haste_compiler.compile, haste_compiler.HasteConfig(num_hyperplanes=4, cost_model=False)
    import torch
    from torch import nn

    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Conv2d(12, 16, 3), nn.GELU(), nn.Conv2d(16, 8, 3)).eval(), torch.ones(1, 12, 12, 12)
    os.environ["HASTE_CACHE"] = os.path.join(os.environ["TMPDIR"], f"cache{time.monotonic_ns()}")
    with torch.no_grad():
        return float((compile(model, (x,), config=config)(x) - model(x)).abs().max())


def main() -> None:
    """Print how many compiles were interrupted, how many others went wrong, and what is left of them."""
    interrupted, wrong = 0, 0
    seconds, draw = LONGEST, random.Random(0)
    for _ in range(int(sys.argv[1])):
        timer = threading.Timer(draw.uniform(0, seconds), os.kill, (os.getpid(), signal.SIGINT))
        start = time.monotonic()
        try:
            timer.start()
            wrong += compile_and_call() > 1e-2
            seconds = time.monotonic() - start
            # A signal that comes only now is no interrupt of a compile.
            timer.cancel()
            timer.join()
        except KeyboardInterrupt:
            interrupted += 1
        except Exception as error:
            wrong += 1
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
    wrong += compile_and_call() > 1e-2
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        children = len(file.read().split())
    left = [name for _, *names in os.walk(os.environ["TMPDIR"]) for each in names for name in each if "tmp" in name]
    print(json.dumps({"interrupted": interrupted, "wrong": wrong, "children": children, "left": left}))


if __name__ == "__main__":
    main()
