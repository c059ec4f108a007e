"""Tokens of attention that say the same are merged: ToMe's bipartite matching, and HTTM's by head over frames."""
