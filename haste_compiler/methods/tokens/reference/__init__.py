"""What merging of tokens computes, in plain PyTorch."""
