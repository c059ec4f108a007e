"""Kernels for CPUs that multiply bfloat16."""
