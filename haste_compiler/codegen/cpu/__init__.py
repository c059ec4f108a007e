"""The CPU as a target: x86-64 and AArch64, vectors and threads."""
