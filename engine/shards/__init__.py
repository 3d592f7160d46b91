"""Runs over shards: which there are, which worker takes which, what is done, and the whole from the parts."""
