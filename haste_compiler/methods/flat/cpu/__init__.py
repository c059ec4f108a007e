"""Kernels for CPUs, and the rules that launch them."""
