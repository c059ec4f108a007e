"""The definition in plain PyTorch."""
