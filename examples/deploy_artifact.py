"""Save a compiled network, and run the file in another process that has no PyTorch, on NumPy arrays."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import haste_compiler
from examples.networks import network_and_images

SERVING = """
import sys

sys.modules["torch"] = None  # as where PyTorch isn't installed
import numpy
import haste_compiler

network = haste_compiler.load(sys.argv[1])
numpy.save(sys.argv[3], network(numpy.load(sys.argv[2])))
"""
"""What runs where the network is deployed: its arguments are the network, the inputs and where outputs go."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Save, load elsewhere, and compare the outputs bit by bit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="of torchvision, such as resnet18; else the carried network")
    parser.add_argument("--folder", type=Path, default=Path(), help="for the files")
    options = parser.parse_args(arguments)
    model, images = network_and_images(options.model, 8)
    compiled = haste_compiler.compile(model, (images,), threads=1)
    network, inputs, outputs = (options.folder / name for name in ("net.haste", "inputs.npy", "outputs.npy"))
    compiled.save(network)
    np.save(inputs, images.numpy())
    subprocess.run([sys.executable, "-c", SERVING, str(network), str(inputs), str(outputs)], check=True)
    same = np.array_equal(np.load(outputs), compiled(images).numpy())
    print(f"{network}: {network.stat().st_size / 1e6:.1f} MB, the same bits without PyTorch: {same}")


if __name__ == "__main__":
    main()
