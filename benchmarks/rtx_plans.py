"""Build plans of the gradient graphs with TensorRT-RTX for each kind of GPU, without a GPU; print time and size.

    python benchmarks/rtx_plans.py                                      # ResNet-50 and Wide-ResNet-50-2 at 64x64
    python benchmarks/rtx_plans.py resnet50:128 --dtype fp16 --sm 89
    python benchmarks/rtx_plans.py bundle                               # every ONNX graph of a bundle

Needs the extra `rtx`. Networks named by architecture are untrained and not verified, because the cost of a plan does
not depend on its weights. The batch is one of

* `32`: a graph that was traced for 32 images;
* `32..32`: a graph for any batch, as bundles hold, with its inputs set to 32 images, as `jboost export --format trt`
  does;
* `1..32`: the same graph with a profile that allows 1 to 32 images, tuned for 32.

If a build fails, the line ends with TensorRT-RTX's first error instead of the last columns.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from jboost.engine.backends.onnx.graphs import weights_name
from jboost.engine.backends.torch_device import TORCH_DTYPES
from jboost.engine.backends.trt.variant import Variant, load_variant
from jboost.engine.bundle import Bundle
from jboost.engine.errors import FailureError
from jboost.export.graph import attach_objective, choose_scale, lower_precision, optimize, trace_trunk
from jboost.export.onnx.lowering import to_onnx
from jboost.export.trt.builder import build_plan
from jboost.export.verification.gradient import check_images
from jboost.trainer.architectures import build_network
from jboost.trainer.joint import JointModel

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Graph:
    """An ONNX gradient graph: its name in the table, its dtype, its file, and its batch size (None: any)."""

    name: str
    dtype: str
    path: Path
    batch: int | None


def network(arch: str) -> JointModel:
    """An untrained joint model of 1000 classes."""
    torch.manual_seed(0)
    model = JointModel(build_network(arch, 1000), MEAN, STD).eval().requires_grad_(False)
    for block in model.modules():
        # In trained networks the residual branches add little. In untrained ones activations would overflow float16.
        if hasattr(block, "bn3"):
            nn.init.constant_(block.bn3.weight, 0.2)
    return model


def export(arch: str, size: int, dtypes: list[str], batch: int, folder: Path) -> Iterator[Graph]:
    """Write the graphs of a network for the objective `joint`: per dtype one for `batch` images and one for any."""
    model = network(arch)
    for fixed in (batch, None):
        trunk = trace_trunk(model, torch.zeros(fixed or 2, 3, size, size), dynamic_batch=fixed is None)
        optimize(trunk)
        for dtype in dtypes:
            probes = check_images(batch if fixed else 4, (3, size, size))
            scale = choose_scale(trunk, probes).loss_scale if dtype == "fp16" else 1.0
            gradient = attach_objective(lower_precision(trunk, TORCH_DTYPES[dtype], scale), "joint", 1.0)
            path = folder / f"{arch}.{size}.{dtype}.{fixed or 'any'}.onnx"
            to_onnx(gradient, path)
            yield Graph(f"{arch} {size}px", dtype, path, fixed)


def of_bundle(folder: Path) -> Iterator[Graph]:
    """The ONNX graphs of a bundle, each checked against its hash."""
    bundle = Bundle(folder)
    for name, entry in bundle.config.artefacts.items():
        if entry.file.endswith(".onnx"):
            bundle.checked_path(weights_name(name))
            label = f"{bundle.config.architecture} {entry.resolution}px {entry.objective or 'forward'}"
            yield Graph(label, entry.dtype or "", bundle.checked_path(name), None)


def build(graph: Graph, rtx: Variant, sm: str, least: int, most: int) -> str:
    """Parse a graph and build a plan for one compute capability; return the row's last columns, or the error."""
    capability = f"{sm[:-1]}.{sm[-1]}"
    if capability not in rtx.capabilities:
        return f"{rtx} does not support sm_{sm}"
    start = time.perf_counter()
    try:
        plan = build_plan(graph.path, rtx, capability=capability, batch=most if least == most else (least, most))
    except FailureError as e:
        return str(e)
    return f"{time.perf_counter() - start:6.2f} {len(plan) / 1e6:8.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "graphs", nargs="*", default=["resnet50:64", "wide_resnet50_2:64"], help="architecture:size or a bundle"
    )
    parser.add_argument("--dtype", default="fp32,fp16", help="dtypes of networks; bundles have their own")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--sm", default="86,89,120", help="compute capabilities")
    args = parser.parse_args()
    rtx = load_variant("tensorrt_rtx")
    print(f"{rtx}, {os.cpu_count()} CPUs")
    print(f"{'graph':<24} {'dtype':<5} {'batch':>7} {'SM':>4} {'s':>6} {'plan MB':>8}")
    for source in args.graphs:
        with tempfile.TemporaryDirectory() as folder:
            arch, _, size = source.rpartition(":")
            if Path(source).is_dir():
                graphs = of_bundle(Path(source))
            else:
                graphs = export(arch, int(size), args.dtype.split(","), args.batch, Path(folder))
            for graph in graphs:
                for least in (1, args.batch) if graph.batch is None else (args.batch,):
                    batch = str(graph.batch or f"{least}..{args.batch}")
                    for sm in args.sm.split(","):
                        row = build(graph, rtx, sm, least, args.batch)
                        print(f"{graph.name:<24} {graph.dtype:<5} {batch:>7} {sm:>4} {row}", flush=True)


if __name__ == "__main__":
    main()
