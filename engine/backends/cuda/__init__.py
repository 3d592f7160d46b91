"""The CUDA loop of the runners without Inductor: one fused kernel per step, fixed buffers, one captured graph."""
