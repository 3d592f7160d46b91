"""The results of a run: the store, the summary and the run file."""
