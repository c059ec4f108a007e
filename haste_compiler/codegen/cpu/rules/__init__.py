"""The rules that lower operators to a CPU's kernels, a file a theme."""

from __future__ import annotations

from haste_compiler.codegen.tables import Rules, tables

ROOMS = (
    "haste_compiler.codegen.rules.layout",
    "haste_compiler.codegen.cpu.rules.views",
    "haste_compiler.codegen.cpu.rules.products",
    "haste_compiler.codegen.cpu.rules.transposed",
    "haste_compiler.codegen.cpu.rules.images",
    "haste_compiler.codegen.cpu.rules.norms",
    "haste_compiler.codegen.cpu.rules.attention",
)
"""Modules with a table ``RULES`` each; of an operator that stands in several, the last one's rule is taken."""


def rules() -> Rules:
    """The table of all of them."""
    return tables(ROOMS)
