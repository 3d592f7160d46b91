"""ResNet-50 and Wide-ResNet-50-2 as checkpoints of 64x64 images, trained for seconds: an untrained network's gradients are chaotic,
and an export would keep some of its products in float32, which a robust model does not need."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from jboost.trainer.checkpoint import ModelInfo, save_checkpoint

sys.path.append(str(Path(__file__).resolve().parents[1]))
from architectures import MEAN, STD, train


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--arch", nargs="+", default=["resnet50", "wide_resnet50_2"])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--device", default="cuda")
    args = parser.parse_args()
    for arch in args.arch:
        model, accuracy = train(arch, args.steps, args.device, branches=0.2)
        info = ModelInfo(arch, 10, 3, MEAN, STD, l0=3.0, resolution=64)
        save_checkpoint(args.out / f"{arch}.safetensors", model.cpu(), info)
        print(
            f"{arch}: accuracy {accuracy:.0%} on {torch.cuda.get_device_name() if args.device == 'cuda' else 'the CPU'}"
        )


if __name__ == "__main__":
    main()
