"""Write the plans that `jboost.engine.backends.trt` loads."""
