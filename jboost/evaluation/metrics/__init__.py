"""The metrics, on features."""
