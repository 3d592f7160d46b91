"""Graph passes: each one changes a graph in place, keeps its results, and returns the number of places changed."""
