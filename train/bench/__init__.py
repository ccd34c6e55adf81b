"""Measurement: FLOPs, and the speed of steps and of the data loader."""
