"""Measurements: how fast compiled networks run, beside what else a user could pick."""
