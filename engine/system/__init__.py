"""The machine: processor, GPUs, memory, and jboost's cache on it."""
