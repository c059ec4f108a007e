"""HASTE's kernels for CPUs."""
