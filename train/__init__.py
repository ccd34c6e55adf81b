"""Experiments as values, and the one jitted, sharded step that trains them all."""
