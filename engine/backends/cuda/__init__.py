"""The CUDA side of the runners that have no Inductor: one fused kernel a step, fixed buffers, one captured graph."""
