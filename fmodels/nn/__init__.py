"""The parts that model families are made of: layers, attention, positions, transformer stacks, heads."""
