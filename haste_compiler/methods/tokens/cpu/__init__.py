"""Kernels of merged tokens for CPUs, and the rules that launch them."""
