"""Writing what `jboost.engine.backends.trt` loads."""
