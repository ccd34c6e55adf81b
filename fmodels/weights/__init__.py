"""Two-way maps between our parameters and published checkpoints, one family a file."""
