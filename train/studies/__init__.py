"""Studies: several runs and their comparison. One study per file."""
