"""Comparing exported graphs with autograd."""
