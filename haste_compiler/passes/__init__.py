"""Rewrites that belong to no method: one a file, each a function of a graph module. ``pipeline.py`` lists them."""
