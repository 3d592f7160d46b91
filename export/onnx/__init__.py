"""Write the graphs that `jboost.engine.backends.onnx` loads."""
