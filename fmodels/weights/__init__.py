"""Two-way conversion between our parameters and published checkpoints, one family per file."""
