"""What a run leaves on disk: its directory, its checkpoints, and what another run begins with."""
