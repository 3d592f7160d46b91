"""``jboost bench``: compare the throughput of every engine with plain PyTorch.

contestants  the bundle's engines, and the baselines: eager autograd, torch.compile
baselines    plain PyTorch's gradient
timing       alternating turns, medians and quartiles
flops        floating-point operations of an image-step
peaks        peak speed of this machine
first_batch  seconds and memory to the first gradient, in a separate process
machine      description of the machine
measure      the whole benchmark
result       the result as JSON and as a table
plot         the result as a picture
"""
