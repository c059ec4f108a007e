"""The operators that match, merge and copy tokens, a file each."""
