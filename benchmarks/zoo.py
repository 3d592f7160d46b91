"""Export other people's models, and compare their gradients with autograd in float64.

    python benchmarks/zoo.py                       # every model that OUT/rows.jsonl does not hold yet, then the table
    python benchmarks/zoo.py levit swin --again    # these models, also if they are done

Each model runs in a process of its own, so a crash or a hang is a row of the table too. The networks have random weights. They
are calibrated, because an untrained network's gradients vanish or are chaotic: constants are replaced by varied values, BatchNorm
gets the statistics of a few batches, and the last layer is scaled.

A model passes if `jboost export`'s own code writes and verifies its bundle, and if ONNX Runtime and the eager engine then return
the right gradient on other inputs, at batch sizes 1, 3 and 4. The reference here shares no code with jboost: autograd of a
float64 copy, in batches of two or more.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from zoo_models import CLASSES, MODELS, Model

DOCS = Path(__file__).parent.parent / "docs" / "architectures.md"
BEGIN, END = "<!-- zoo: begin -->", "<!-- zoo: end -->"
L0 = 1.0
BATCHES = (1, 3, 4)
# The median image's gradient is within the first bound, the worst within the second or within the third times the worst error
# of float32 autograd itself: rounding flips the sign of some ReLU's input in every network that has enough of them.
MEDIAN, WORST, SLACK = 1e-4, 1e-3, 4.0
# Runs of float32 autograd, all but one with noise in the input's last bit, because a single run flips a sign only by chance.
RUNS = 5


def calibrate(network: nn.Module, size: int) -> None:
    """Give a new network weights whose gradients are neither zero nor chaotic."""
    for weight in network.parameters():
        if weight.numel() > 1 and float(weight.detach().std()) == 0.0:  # biases, scales, and layer scales near 0
            value = float(weight.flatten()[0])
            base = value if abs(value) > 0.05 or value == 0.0 else 0.3
            weight.data = base + 0.1 * torch.randn_like(weight)
    norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.train()
        norm.momentum = 0.5
    with torch.no_grad():
        for _ in range(4 if norms else 0):
            network(_images(8, size) * 2 - 1)
    network.eval()
    heads = [m for m in network.modules() if isinstance(m, nn.Linear | nn.Conv2d) and m.weight.shape[0] == CLASSES]
    with torch.no_grad():
        spread = float(network(_images(8, size) * 2 - 1).std())
        for head in heads:
            head.weight.mul_(2.0 / max(spread, 1e-6))


def _images(batch: int, size: int) -> Tensor:
    """Random images with some large structure, float32 [B, 3, H, W] in [0, 1]."""
    coarse = F.interpolate(torch.rand(batch, 3, 5, 5), size=(size, size), mode="bilinear")
    return (0.7 * coarse + 0.3 * torch.rand(batch, 3, size, size)).clamp(0, 1)


def gradient(network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """d/dx of eq. 12, CE + (softplus(f_c) - l0)^2 / 2, by autograd, in x's dtype; never with a batch of one."""
    rows = len(x)
    if rows == 1:
        x, y = torch.cat([x, x]), torch.cat([y, y])
    x = x.clone().requires_grad_()
    logits = network(x)
    real = F.softplus(logits.gather(1, y[:, None])[:, 0])
    loss = F.cross_entropy(logits, y, reduction="sum") + 0.5 * ((real - L0) ** 2).sum()
    return torch.autograd.grad(loss, x)[0][:rows]


def errors(got: Tensor, want: Tensor) -> list[float]:
    """Relative L2 error of each image's gradient."""
    found: list[float] = ((got.double() - want).flatten(1).norm(dim=1) / want.flatten(1).norm(dim=1)).tolist()
    return found


def check(model: Model, folder: Path) -> dict[str, Any]:
    """Export a model and compare its gradients.

    Returns:
        ``passed``; ``median`` and ``worst``, relative errors over all images and both engines; ``floor``, the worst of float32
        autograd itself; ``seconds`` of the export.
    """
    import numpy as np
    import onnxruntime

    from jboost.engine.backends.eager.runner import EagerRunner
    from jboost.engine.backends.request import RunRequest
    from jboost.engine.bundle import Bundle
    from jboost.export.checkpoints.load import LoadedCheckpoint
    from jboost.export.request import ExportRequest
    from jboost.export.write import write_artefacts
    from jboost.trainer.checkpoint import ModelInfo
    from jboost.trainer.joint import JointModel

    torch.manual_seed(0)
    network = model.build().eval()
    calibrate(network, model.size)
    network.requires_grad_(False)
    mean, std = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
    exact = copy.deepcopy(network).double()

    def reference(x: Tensor) -> Tensor:
        out: Tensor = exact((x - 0.5) / 0.5)
        return out

    joint = JointModel(network, mean, std).eval()
    info = ModelInfo(model.name, CLASSES, 3, mean, std, l0=L0, resolution=model.size)
    start = time.perf_counter()
    write_artefacts(
        folder,
        LoadedCheckpoint(model=joint, info=info, sha256="0" * 64, notes=()),
        model.name,
        ExportRequest(("joint",), ("fp32",), (model.size,)),
        l0=L0,
        formats=("onnx",),
        onnx_dtypes=("fp32",),
        targets=(),
        batch_size=4,
        device="cpu",
        say=lambda stage: None,
    )
    seconds = time.perf_counter() - start
    graph = onnxruntime.InferenceSession(
        str(next(folder.glob("gradient.joint.*.onnx"))), providers=["CPUExecutionProvider"]
    )
    eager = EagerRunner(Bundle(folder, trust_code=True), RunRequest("joint", L0, model.size, device="cpu"))
    found: list[float] = []
    floor: list[float] = []
    torch.manual_seed(7)
    for batch in BATCHES:
        for x in (torch.rand(batch, 3, model.size, model.size), _images(batch, model.size)):
            y = torch.randint(0, CLASSES, (batch,))
            want = gradient(reference, x.double(), y)  # type: ignore[arg-type]
            by_onnx = np.asarray(graph.run(["grad"], {"x": x.numpy(), "y": y.numpy()})[0])
            found += errors(torch.from_numpy(by_onnx), want) + errors(eager.gradient(x, y).grad, want)
            for run in range(RUNS):
                stirred = x * (1 + 1.2e-7 * torch.randn(x.shape)) if run else x
                floor += errors(gradient(joint, stirred, y), want)
    passed = median(found) <= MEDIAN and max(found) <= max(WORST, SLACK * max(floor))
    return {"median": median(found), "worst": max(found), "floor": max(floor), "seconds": seconds, "passed": passed}


def run_one(model: Model) -> None:
    """Check one model in this process; print its row as the last line."""
    warnings.simplefilter("ignore")
    row: dict[str, Any] = {"passed": False, "worst": None, "floor": None, "seconds": None, "why": None}
    try:
        with tempfile.TemporaryDirectory() as folder:
            row |= check(model, Path(folder))
        if not row["passed"]:
            row["why"] = (
                f"relative error {row['worst']:.1e} (median {row['median']:.1e}), float32 autograd itself {row['floor']:.1e}"
            )
    except Exception as e:  # whatever stops an export is the row's reason
        row["why"] = f"{type(e).__name__}: {e}"
    print(json.dumps(row))


def run_apart(model: Model, limit: float) -> dict[str, Any]:
    """Check one model in a process of its own and return its row."""
    start = time.perf_counter()
    row: dict[str, Any] = {"passed": False, "worst": None, "floor": None, "seconds": None}
    try:
        done = subprocess.run(
            [sys.executable, __file__, "--one", model.name], capture_output=True, text=True, timeout=limit
        )
        lines = done.stdout.strip().splitlines()
        if done.returncode == 0 and lines:
            row = json.loads(lines[-1])
        else:
            row["why"] = f"exit code {done.returncode}: {(done.stderr.strip().splitlines() or ['no output'])[-1]}"
    except subprocess.TimeoutExpired:
        row["why"] = f"not done after {limit:.0f} s"
    row["seconds"] = row["seconds"] or time.perf_counter() - start
    facts = {
        "name": model.name,
        "family": model.family,
        "package": model.package,
        "source": model.source,
        "size": model.size,
    }
    return facts | row


def table(rows: dict[str, dict[str, Any]]) -> str:
    """The table in Markdown, with what it was made with."""
    passed = sum(row["passed"] for row in rows.values())
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "timm", "torchvision", "robustbench"))
    lines = [
        f"{passed} of {len(rows)} models pass ({packages}; one thread of a CPU).",
        "",
        "| family | package | model | pixels | passes | worst relative error | float32 autograd itself | seconds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for model in MODELS:
        if (row := rows.get(model.name)) is not None:
            worst, floor = ("" if row[key] is None else f"{row[key]:.1e}" for key in ("worst", "floor"))
            what = f"{model.family} | {model.package} | `{model.source}` | {model.size}"
            verdict = "yes" if row["passed"] else f"no: {_cell(row['why'])}"
            lines.append(f"| {what} | {verdict} | {worst} | {floor} | {row['seconds']:.0f} |")
    missing = [f"{m.package} `{m.source}`" for m in MODELS if m.name not in rows]
    if missing:
        lines += ["", f"Not run yet: {', '.join(missing)}."]
    return "\n".join(lines)


def _cell(text: str) -> str:
    line = " ".join(text.split()).replace("|", "/")
    return line if len(line) <= 160 else line[:159] + "…"


def write_table(rows: dict[str, dict[str, Any]]) -> None:
    """Put the table between its markers in the documentation."""
    text = DOCS.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    DOCS.write_text(f"{before}{BEGIN}\n{table(rows)}\n{END}{after}", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="parts of names; default: every model")
    parser.add_argument("--out", type=Path, default=Path("out/zoo"))
    parser.add_argument("--again", action="store_true", help="run the models also if they are done")
    parser.add_argument(
        "--limit", type=float, default=300, help="seconds that a model may take; more on a busy machine"
    )
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.one is not None:
        run_one(next(model for model in MODELS if model.name == args.one))
        return
    os.environ["OMP_NUM_THREADS"] = "1"
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / "rows.jsonl"
    rows = {}
    if file.exists():
        rows = {row["name"]: row for row in map(json.loads, file.read_text().splitlines())}  # the last of a name counts
    chosen = [m for m in MODELS if not args.names or any(part in m.name for part in args.names)]
    for number, model in enumerate(chosen, 1):
        if model.name in rows and not args.again:
            continue
        rows[model.name] = row = run_apart(model, args.limit)
        with open(file, "a") as out:
            out.write(json.dumps(row) + "\n")
        verdict = "passes" if row["passed"] else f"FAILS: {_cell(row['why'])}"
        worst = "" if row["worst"] is None else f", worst error {row['worst']:.1e}"
        print(f"{number}/{len(chosen)} {model.name}: {verdict}{worst}, {row['seconds']:.0f} s", flush=True)
    write_table(rows)


if __name__ == "__main__":
    main()
