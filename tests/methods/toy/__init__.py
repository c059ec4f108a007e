"""Toy: a method that rounds what a convolution reads, so that some of it is nothing. It is all in this folder."""
