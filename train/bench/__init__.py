"""Benchmarks: FLOPs, and the speed of the data loader."""
