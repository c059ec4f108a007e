"""What a stream computes, in plain PyTorch."""
