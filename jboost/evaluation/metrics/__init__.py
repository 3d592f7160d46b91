"""The metrics, computed from features."""
