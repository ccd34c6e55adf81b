"""Run directories: files, logs, checkpoints, and the initial state of a run."""
