"""The error of exported gradients against float64 autograd, for the architectures that matter, briefly trained.

    python benchmarks/architectures.py --out out/architectures resnet50:64 resnet50:256 wide_resnet50_2:64

Untrained networks have chaotic gradients and tell little. So each network is first trained for a minute or so on noisy
digits (scikit-learn's, enlarged to 64x64 colour images). It is then exported as a user would, at each given size, and
the script prints the figures of export's own verification.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import nn

from jboost.export.bundle import export_bundle
from jboost.trainer.architectures import build_network
from jboost.trainer.checkpoint import ModelInfo, save_checkpoint
from jboost.trainer.joint import JointModel

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def train(arch: str, steps: int, device: str = "cpu", branches: float = 1.0) -> tuple[JointModel, float]:
    """Train a classifier of noisy digits; return it and its accuracy on the last batches.

    `branches` scales every residual branch of a ResNet at the start of training. Small branches give calm gradients after
    few steps, as those of a robust model are.
    """
    data = load_digits()
    torch.manual_seed(0)
    images = torch.from_numpy(data.images).float()[:, None] / 16
    images = nn.functional.interpolate(images, size=64, mode="bilinear").expand(-1, 3, -1, -1)
    labels = torch.from_numpy(data.target).long().to(device)
    images = images.to(device)
    network = build_network(arch, 10)
    for name, module in network.named_modules():
        if name.endswith("bn3") and isinstance(module, nn.BatchNorm2d):  # a bottleneck's last
            nn.init.constant_(module.weight, branches)
    model = JointModel(network, MEAN, STD).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    right = []
    for _ in range(steps):
        rows = torch.randint(0, len(images), (32,))
        x = (images[rows] + 0.2 * torch.randn(32, 3, 64, 64, device=device)).clamp(0, 1)
        logits = model(x)
        optimizer.zero_grad()
        nn.functional.cross_entropy(logits, labels[rows]).backward()
        optimizer.step()
        right.append(float((logits.argmax(1) == labels[rows]).float().mean()))
    return model.eval(), sum(right[-5:]) / 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="+", help="architecture:size, e.g. resnet50:64 or package.module:factory:64")
    parser.add_argument("--out", type=Path, default=Path("out/architectures"))
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--format", default="onnx")
    parser.add_argument("--dtype", default="fp32")
    parser.add_argument("--batch", type=int, default=32, help="batch size of compiled packages")
    parser.add_argument("--rtol", type=float, help="as for jboost export; bf16 needs more if a network is not robust")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    sizes = defaultdict(list)
    for network in args.networks:
        arch, _, size = network.rpartition(":")
        sizes[arch].append(int(size))
    for arch, resolutions in sizes.items():
        checkpoint = args.out / f"{arch.replace(':', '.')}.safetensors"
        if not checkpoint.exists():
            model, accuracy = train(arch, args.steps)
            save_checkpoint(checkpoint, model, ModelInfo(arch, 10, 3, MEAN, STD, l0=5.0, resolution=64))
            print(f"{arch}: trained {args.steps} steps, accuracy {accuracy:.0%} on noisy digits", flush=True)
        made = export_bundle(
            checkpoint,
            args.out / arch.replace(":", "."),
            arch=arch,
            resolutions=tuple(resolutions),
            formats=tuple(args.format.split(",")),
            dtypes=tuple(args.dtype.split(",")),
            batch_size=args.batch,
            rtol=args.rtol,
        )
        for name, entry in made.bundle.config.artefacts.items():
            if entry.objective is not None:
                e = entry.errors
                print(
                    f"{arch} {entry.file}: gradient error median {e['grad_median']:.1e}, worst {e['grad_worst']:.1e} "
                    f"(eager float32 itself: {e['floor_worst']:.1e}), worst cosine {e['cosine_worst']:.4f}, "
                    f"{made.seconds[name]:.0f} s",
                    flush=True,
                )


if __name__ == "__main__":
    main()
