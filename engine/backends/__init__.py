"""The engines: eager, and a folder each for compile, onnx and trt, and for the CUDA loop without torch."""
