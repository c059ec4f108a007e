"""Of how many bits integers are."""

BITS = 8
"""Of integers, unless something else is said."""

NARROW_BITS = 7
"""Of inputs whose products with 8-bit filters fit 16 bits."""
