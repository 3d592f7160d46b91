"""Writing what `jboost.engine.backends.onnx` loads."""
