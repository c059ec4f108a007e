"""How long a saved ResNet-18 takes to load: ``python -m benchmarks.load``.

The file is written once, then loaded in processes made anew, which print what they measured and whether the loaded
network's outputs are those of the compiled one, bit by bit. Importing the package is not counted.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import haste_compiler
from haste_compiler import HasteConfig
from tests.zoo import build, example_input

_LOAD = """
import json, sys, time
import numpy as np
import haste_compiler
haste_compiler.load  # imported before the clock starts
start = time.perf_counter()
network = haste_compiler.load(sys.argv[1])
seconds = time.perf_counter() - start
data = np.load(sys.argv[2])
print(json.dumps([seconds, bool(np.array_equal(network(data["x"]), data["y"]))]))
"""


def measure(path: Path, arrays: Path, rounds: int) -> list[tuple[float, bool]]:
    """Seconds of each load, and whether the outputs were equal bit by bit."""
    command = [sys.executable, "-c", _LOAD, str(path), str(arrays)]
    return [json.loads(subprocess.run(command, check=True, capture_output=True).stdout) for _ in range(rounds)]


def main() -> None:
    """Print one line for the dense network and one for the HASTE network."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    model, x = build("resnet18"), example_input("resnet18")
    configs = {"dense": HasteConfig(enabled=False), "HASTE in every eligible layer": HasteConfig(cost_model=False)}
    with tempfile.TemporaryDirectory() as folder:
        for name, config in configs.items():
            compiled = haste_compiler.compile(model, (x,), config=config)
            path, arrays = Path(folder) / "net.haste", Path(folder) / "data.npz"
            compiled.save(path)
            np.savez(arrays, x=x.numpy(), y=compiled(x).numpy())
            found = measure(path, arrays, rounds)
            seconds = [each for each, _ in found]
            equal = "equal bits" if all(same for _, same in found) else "OTHER BITS"
            print(
                f"ResNet-18, {name}: {path.stat().st_size / 1e6:.0f} MB, loaded in {min(seconds):.3f} s at best, "
                f"{statistics.median(seconds):.3f} s median of {rounds}; {equal}"
            )


if __name__ == "__main__":
    main()
