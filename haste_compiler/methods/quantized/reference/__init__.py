"""What quantized layers compute, in plain PyTorch."""
