"""Picojoules of a multiply-add in each format of numbers, from published tables of operations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from haste_compiler.errors import InputError

Process = Literal["45nm", "7nm"]
"""The chips that the published tables are of."""

Accumulation = Literal["narrow", "wide"]
"""What sums are priced as: numbers as wide as the products' factors, or what they are added up in."""

PICOJOULES: Mapping[str, Mapping[str, float]] = {
    # M. Horowitz, "Computing's energy problem (and what we can do about it)", ISSCC 2014, figure 1.1.9.
    "45nm": {
        "add int8": 0.03,
        "add int32": 0.1,
        "add float16": 0.4,
        "add float32": 0.9,
        "multiply int8": 0.2,
        "multiply float16": 1.1,
        "multiply float32": 3.7,
    },
    # N. Jouppi et al., "Ten lessons from three generations shaped Google's TPUv4i", ISCA 2021, table 2.
    "7nm": {
        "add int8": 0.007,
        "add int32": 0.03,
        "add bfloat16": 0.11,
        "add float16": 0.16,
        "add float32": 0.38,
        "multiply int8": 0.07,
        "multiply bfloat16": 0.21,
        "multiply float16": 0.34,
        "multiply float32": 1.31,
    },
}
"""Energy of one operation, without reading or writing its operands, by chip."""


@dataclass(frozen=True)
class Arithmetic:
    """How a layer's products are computed.

    Attributes:
        name: as reports write it.
        factors: the format of both factors; None: there is nothing to multiply, activations are added or subtracted.
        narrow: the format of sums that are as wide as the factors.
        wide: the format that products are added up in.
        weight_bits: storage of one weight.
    """

    name: str
    factors: str | None
    narrow: str
    wide: str
    weight_bits: int

    def multiply_add(self, process: Process = "7nm", accumulation: Accumulation = "narrow") -> float:
        """Picojoules of one multiply-add.

        Raises:
            InputError: no such chip or sum is known, or this arithmetic's operations aren't in the chip's table.
        """
        table = PICOJOULES.get(process)
        if table is None:
            raise InputError(f"process must be one of {', '.join(PICOJOULES)}, not {process!r}")
        if accumulation not in ("narrow", "wide"):
            raise InputError(f"accumulation must be narrow or wide, not {accumulation!r}")
        operations = [f"add {self.narrow if accumulation == 'narrow' else self.wide}"]
        if self.factors is not None:
            operations.append(f"multiply {self.factors}")
        unknown = [operation for operation in operations if operation not in table]
        if unknown:
            raise InputError(f"the energy of {' and '.join(unknown)} at {process} isn't published; 7nm has it")
        return sum(table[operation] for operation in operations)


FLOAT32 = Arithmetic("float32", "float32", "float32", "float32", 32)
FLOAT16 = Arithmetic("float16", "float16", "float16", "float32", 16)
BFLOAT16 = Arithmetic("bfloat16", "bfloat16", "bfloat16", "float32", 16)
INT8 = Arithmetic("int8", "int8", "int8", "int32", 8)
TERNARY = Arithmetic("ternary", None, "int8", "int32", 2)

ARITHMETICS = {each.name: each for each in (FLOAT32, FLOAT16, BFLOAT16, INT8, TERNARY)}
"""By name."""
