"""The operators that bfloat16 layers call, a file each."""
