"""The engines: one folder each for eager, compile, onnx and trt, and one for the CUDA loop without torch."""
