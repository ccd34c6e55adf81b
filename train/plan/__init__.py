"""What a run will be, before it starts: parameters, FLOPs, memory, shardings."""
