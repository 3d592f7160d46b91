"""What every part uses: the machine and its GPUs, memory, names of devices and dtypes, atomic writes, the cache."""
