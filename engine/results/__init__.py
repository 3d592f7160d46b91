"""What a run leaves: the store of its results, the summary, the run file."""
