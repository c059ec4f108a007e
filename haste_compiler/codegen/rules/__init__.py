"""Rules that lower operators to kernels that any target may bring, and rules that need none."""
