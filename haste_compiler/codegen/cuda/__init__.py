"""CUDA cards as a target."""
