"""Which parts of a graph may be quantized: groups of nodes, what quantizing each costs, and which to keep."""
