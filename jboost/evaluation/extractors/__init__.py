"""Feature extractors: what turns images into the vectors that every number is computed from."""
