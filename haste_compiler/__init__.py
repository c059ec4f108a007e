"""Compile pretrained CNNs so that they do less arithmetic on every input, without retraining."""
