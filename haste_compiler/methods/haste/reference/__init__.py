"""The HASTE operator in plain PyTorch: what every compiled kernel is checked against."""
