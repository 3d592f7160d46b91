"""`jboost boost` of a whole set from file to file, by the clock on the wall: reading, boosting and writing."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle")
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--dtype", default="fp16")
    parser.add_argument("--preset", default="ct1")
    args = parser.parse_args()
    with TemporaryDirectory() as folder:
        samples, summary = Path(folder) / "samples.npz", Path(folder) / "summary.json"
        rng = np.random.default_rng(0)
        images = rng.integers(0, 256, (args.images, args.size, args.size, 3), dtype=np.uint8)
        np.savez(samples, images, rng.integers(0, 10, args.images))
        command = [str(Path(sys.executable).with_name("jboost"))]
        if not Path(command[0]).exists():
            command = [sys.executable, "-c", "from jboost.cli.main import main; main()"]
        start = time.perf_counter()
        done = subprocess.run(
            [*command, "boost", str(samples), "--bundle", args.bundle, "--engine", "compile", "--dtype", args.dtype,
             "--preset", args.preset, "--no-early-stop", "--json", str(summary)]
        )  # fmt: skip
        seconds = time.perf_counter() - start
        if done.returncode == 0:
            print(json.dumps(json.loads(summary.read_text()), indent=2))
            print(f"{args.images:,} images, preset {args.preset}, {args.dtype}: {seconds:.1f} s from shell to shell")
        return done.returncode


if __name__ == "__main__":
    sys.exit(main())
