"""One way to write each thing: a file for each theme, with a table of its rewrites; ``driver.py`` joins them."""

from haste_compiler.passes.canonicalize.driver import canonicalize

__all__ = ["canonicalize"]
