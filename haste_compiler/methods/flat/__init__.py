"""Flat tiles: tiles of a convolution's outputs whose windows are alike, as in even areas, are computed once."""
