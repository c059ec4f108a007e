"""HASTE: channels of a patch that are alike are merged, those that are flat dropped, while the network runs."""
