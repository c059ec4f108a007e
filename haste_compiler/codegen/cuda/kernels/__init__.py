"""A card's kernels, a file each."""
