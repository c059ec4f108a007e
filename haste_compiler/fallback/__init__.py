"""Operators that no kernel of ours computes: PyTorch's own run them, called from inside the compiled network."""
