"""int8 without calibration: weights and activations of 8 bits, by scales that are found while the network runs."""
