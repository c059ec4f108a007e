"""bfloat16: factors of 16 bits, float32 sums, on machines that multiply such numbers."""
