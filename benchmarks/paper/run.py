"""The paper's tables at small scale on Fashion-MNIST: trains everything, boosts, measures, writes results.json and a page.

    python benchmarks/paper/run.py --data /usr/share/datasets/fashion-mnist --out out/quality
    python benchmarks/paper/page.py --results out/quality/results.json --out docs

`--data` is the folder of the four IDX files (Debian: apt-get install dataset-fashion-mnist). The test split is held out of every
training: of the yardsticks, the generators and the joint models. A run that was killed goes on with the same command. `--scale
0.01` tries everything in minutes; its numbers mean nothing. Changes of this benchmark's code are not noticed: start those in
another folder. Steps run in parallel, as far as there are cores.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import signal
import sys
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch; see the demo

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "demo"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "fashion_mnist"))
sys.path.insert(0, str(Path(__file__).resolve().parent))  # last, so that its `run` is found first

from parallel import run_parallel
from pipeline import build_steps, collect
from plan import Plan
from steps import Runner, write_json


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("/usr/share/datasets/fashion-mnist"))
    parser.add_argument("--out", type=Path, default=Path("out/quality"))
    parser.add_argument(
        "--seeds", default="0,1,2", help="with commas; the first one's samples choose the numbers of steps"
    )
    parser.add_argument("--scale", type=float, default=1.0, help="of every size, above 0 and at most 1")
    parser.add_argument(
        "--jobs",
        type=int,
        default=min(os.cpu_count() or 1, 8),
        help="steps at a time, a gigabyte each; by default one a core",
    )
    parser.add_argument("--only", nargs="+", default=[], metavar="STEP", help="steps by name, beginning or pattern")
    parser.add_argument("--list", action="store_true", help="print the plan and end")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # an exception, so that the command that is run ends too
    try:
        if args.jobs < 1:
            raise ValueError(f"--jobs must be at least 1, got {args.jobs}")
        plan = Plan.scaled(tuple(int(seed) for seed in args.seeds.split(",")), args.scale)
        # Absolute: a training run that is resumed must find the same path.
        out, data = args.out.resolve(), args.data.resolve()
        prepare = partial(make_runner, plan, data, out)
        runner = prepare()
        show(runner, args.only, args.jobs)
    except ValueError as e:
        parser.error(str(e))
    if args.list:
        return 0
    if not any(data.glob("train-images-idx3-ubyte*")):
        parser.error(f"no train-images-idx3-ubyte in {data}; give Fashion-MNIST's folder as --data")
    out.mkdir(parents=True, exist_ok=True)
    with (out / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            parser.error(f"another run is at work in {out}")
        try:
            if args.jobs > 1:
                run_parallel(runner, prepare, args.jobs, args.only)
            else:
                runner.run(args.only)
        finally:
            results = collect(runner, plan)
            write_json(out / "results.json", results)
    seconds = sum(step["seconds"] for step in results["steps"].values())
    print(
        f"{len(results['steps'])} steps, {seconds / 60:.1f} min of work; {len(results['missing'])} left: {out / 'results.json'}"
    )
    return 0


def say(line: str) -> None:
    print(line, flush=True)


def make_runner(plan: Plan, data: Path, out: Path) -> Runner:
    return Runner(out, build_steps(plan, data, out), say=say)


def show(runner: Runner, only: list[str], jobs: int) -> None:
    """Print the plan: every step with what it should take, or what it took."""
    chosen = runner.chosen(only)
    left = 0.0
    for step in chosen:
        record = runner.record(step.name)
        left += step.seconds if record is None else 0.0
        state = f"{step.seconds:6.0f} s expected" if record is None else f"{record['seconds']:6.0f} s, done"
        print(f"{step.name:32} {state}")
    say(f"{len(chosen)} steps, about {left / jobs / 60:.0f} min left, {jobs} at a time, a quiet core each")


if __name__ == "__main__":
    sys.exit(main())
