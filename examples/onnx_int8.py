"""Read a network from an ONNX file, compile it in integers of 8 bits without calibration, and hold it against float32.

`python -m examples.onnx_int8 --model net.onnx` takes a file of yours; else the carried network is exported first.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

import haste_compiler
from haste_compiler.demo import held_out_digits, load_network


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the layers that became integers, and how far outputs moved."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, help="an ONNX file that leaves no size open")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        path = options.model or Path(folder) / "digits.onnx"
        if options.model is None:
            torch.onnx.export(load_network(), (held_out_digits()[0][:8],), path, verbose=False)
        network = haste_compiler.from_onnx(path)
    inputs = network.example_inputs() if options.model else (held_out_digits()[0][:8],)
    compiled = haste_compiler.compile(network, inputs, precision="int8", threads=1)
    print(compiled.explain())
    report = haste_compiler.validate(network, compiled, [inputs], time=False)
    print(f"output error {report.max_rel_error:.2%}, same class {report.agreement:.1%}")


if __name__ == "__main__":
    main()
