"""Models as pure functions of their parameters: thin Flax linen modules, one family per file."""
