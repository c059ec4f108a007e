"""What is done to FX graphs that is no pass: capture, nodes, shapes, geometries, checks, algorithms by networkx."""
