"""The onnx engine: a bundle's graphs in ONNX Runtime, on a CPU or a GPU. Needs no torch."""
