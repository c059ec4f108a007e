"""The operators that labels of alike pixels are found, carried and used by."""
