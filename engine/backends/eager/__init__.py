"""The eager engine: PyTorch autograd on a bundle's forward program. The yardstick for every other engine."""
