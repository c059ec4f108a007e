"""The live view: a page, served to this machine, on which a compiled network is steered and looked at."""
