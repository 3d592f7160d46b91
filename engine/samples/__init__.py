"""Sample sets: reading, writing and describing them."""
