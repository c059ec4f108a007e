"""What a convolution costs, dense and as a HASTE convolution, on this machine; and which of the two to choose."""
