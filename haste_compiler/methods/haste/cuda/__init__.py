"""HASTE's kernels for CUDA cards."""
