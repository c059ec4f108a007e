"""The operators that quantized layers call, a file each."""
