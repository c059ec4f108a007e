"""The rules that lower operators to a card's kernels, a file a theme."""

from __future__ import annotations

from haste_compiler.codegen.tables import Rules, tables

ROOMS = (
    "haste_compiler.codegen.rules.layout",
    "haste_compiler.codegen.cuda.rules.products",
    "haste_compiler.codegen.cuda.rules.transposed",
    "haste_compiler.codegen.cuda.rules.images",
)
"""Modules with a table ``RULES`` each; of an operator that stands in several, the last one's rule is taken."""


def rules() -> Rules:
    """The table of all of them."""
    return tables(ROOMS)
