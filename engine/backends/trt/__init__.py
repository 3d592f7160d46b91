"""The trt engine: plans that TensorRT or TensorRT-RTX built for a GPU. Needs no torch."""
