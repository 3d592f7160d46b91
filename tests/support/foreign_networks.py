"""Imports torchvision and timm beside a CPU build of torch.

PyPI's torchvision is built for CUDA. Beside a CPU build of torch its compiled operators do not load, and its import fails with
"operator torchvision::nms does not exist". No network needs these operators; declaring them is enough.

    python tests/support/foreign_networks.py boost ...    runs the command line with the operators declared
"""

from __future__ import annotations

import torch

_OPERATORS = {
    "nms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}


def declare_operators() -> None:
    """Make ``import torchvision`` work, once a process."""
    for name, schema in _OPERATORS.items():
        if not hasattr(torch.ops.torchvision, name):
            torch.library.define(f"torchvision::{name}", schema)


if __name__ == "__main__":
    declare_operators()
    from jboost.cli.main import main

    main()
