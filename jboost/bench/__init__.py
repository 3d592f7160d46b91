"""``jboost bench``: the throughput of every engine beside what a user of plain PyTorch has.

contestants  what competes: the bundle's engines, eager autograd, torch.compile
timing       alternating turns, medians and quartiles
flops        the arithmetic of an image-step
peaks        what this machine reaches at best
first_batch  seconds and memory to the first gradient, in a process of its own
machine      what was measured on
measure      all of these, in order
report       the result as JSON and as a table;  plot: as a picture
"""
