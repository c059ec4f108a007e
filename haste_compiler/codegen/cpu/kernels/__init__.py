"""A CPU's kernels, a file each, with the rules that launch them."""
