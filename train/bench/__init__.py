"""Measurement: FLOPs, the figures of a log line, the speed of steps and of the data loader."""
