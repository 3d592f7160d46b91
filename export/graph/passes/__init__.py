"""Graph passes: each changes a gradient graph in place, keeps its numbers, and says how many places it changed."""
