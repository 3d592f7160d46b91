"""Load any supported checkpoint as a joint model."""
