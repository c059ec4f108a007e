"""Kernels of quantized layers for CPUs, and the rules that launch them."""
