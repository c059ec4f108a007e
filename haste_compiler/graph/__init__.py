"""FX graphs, as far as no pass is concerned: capture, nodes, shapes, geometries, checks, algorithms by networkx."""
