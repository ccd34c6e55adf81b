"""Building blocks of the model families: layers, attention, positions, transformer stacks, heads."""
