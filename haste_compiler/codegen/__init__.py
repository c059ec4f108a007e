"""From a graph to machine code: what is the same for all targets, and a folder for each target."""
