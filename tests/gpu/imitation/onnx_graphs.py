"""A bundle's ONNX gradient graphs in ONNX Runtime's CUDA provider on an imitated GPU: what a run is made of.

    python tests/gpu/imitation/run.py --log calls.txt python tests/gpu/imitation/onnx_graphs.py bundle calls.txt

For each graph: whether all of its nodes are the provider's; kernels, waits and takings of memory in the first run with a set of
addresses, in which ONNX Runtime captures, and in later ones. Two sets of addresses take turns, and a smaller batch comes last.
"""

from __future__ import annotations

import argparse
import ctypes
import sys
from collections import Counter
from pathlib import Path

from jboost.engine.backends.onnx.gpu import OrtNetwork
from jboost.engine.backends.onnx.graphs import checked_graph
from jboost.engine.bundle import Bundle

_STREAM = 0x5000  # of no meaning to an imitation, and easily found in its log


#: (what is printed, which buffers, whether one image is missing), in order.
_RUNS = (
    ("first", 0, False), ("again", 0, False), ("elsewhere", 1, False), ("back", 0, False), ("fewer", 0, True),
    ("fewer again", 0, True),
)  # fmt: skip


def buffers(runtime: ctypes.CDLL, size: int) -> dict[str, int]:
    """The addresses of `size` bytes of the device for each input and output."""
    addresses = {}
    for name in ("x", "y", "grad", "class_logit", "loss", "predicted"):
        address = ctypes.c_void_p()
        runtime.cudaMalloc(ctypes.byref(address), ctypes.c_size_t(size))
        addresses[name] = address.value or 0
    return addresses


def last_run(log: Path) -> str:
    """The calls of the last run, counted, and how many went to another stream than the one given."""
    calls = log.read_text().rpartition("# run\n")[2].splitlines()
    kinds = Counter(call.split()[0] for call in calls)
    strays = sum(" stream " in call and f"stream {_STREAM:#x}" not in call for call in calls)
    return f"{', '.join(f'{count} {kind}' for kind, count in kinds.most_common())}; {strays} on other streams"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("log", type=Path, help="the same as run.py's")
    parser.add_argument("--batch", type=int, default=256)
    args = parser.parse_args()
    runtime, bundle = ctypes.CDLL("libcudart.so.13"), Bundle(args.bundle)
    for name, entry in bundle.config.artefacts.items():
        if not entry.file.endswith(".onnx") or entry.objective is None:
            continue
        shape = (bundle.config.in_channels, entry.resolution, entry.resolution)
        network = OrtNetwork(checked_graph(bundle, name), shape, 0, _STREAM)
        print(f"{name}, batch {args.batch}: all of it on the GPU")
        sets = [buffers(runtime, 8 * args.batch * shape[0] * shape[1] * shape[2]) for _ in range(2)]
        for title, which, fewer in _RUNS:
            network.batch_size = args.batch - fewer
            runtime.imitation_note(b"run")
            network.bind(**sets[which])
            network.enqueue(_STREAM)
            print(f"  {title:12s}{last_run(args.log)}")
        network.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
