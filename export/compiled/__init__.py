"""Writing what `jboost.engine.backends.compiled` loads."""
