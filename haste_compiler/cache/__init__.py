"""What is kept on disk from one process to the next: machine code and measurements.

Machine code runs with the rights of whoever loads it, so the cache is as good as those who can write to it: only what
belongs to the user (or to root), and what nobody else can write to, is used.
"""
