"""What a person sees of a run: progress, curves, the HTML report, a look at the data."""
