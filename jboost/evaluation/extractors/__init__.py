"""Feature extractors turn images into the vectors that every metric is computed from."""
