"""Long steps against short ones: what each number of gradients reaches, on the models and samples that `run.py` made.

    python benchmarks/paper/fewer.py --run out/quality --out out/fewer
    python benchmarks/paper/page.py --results out/quality/results.json --fewer out/fewer/fewer.json --out docs

Follows every method with every length of a step and measures the images after each number of steps; lengths are chosen on other
samples, of the first seed, against training images. A run that was killed goes on with the same command.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch; see the demo

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "demo"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "fashion_mnist"))
sys.path.insert(0, str(Path(__file__).resolve().parent))  # last, so that its modules are found first

import fewer_work
from command import jboost
from fewer_found import Found, length_at, target_cosine
from fewer_plan import (
    LENGTHS,
    METHODS,
    PICTURED,
    PRESET_LENGTH,
    REPORTED,
    RULED,
    SETTINGS,
    SHORTEST,
    WORK,
    Method,
    Setting,
)
from parallel import run_parallel
from pipeline import side_of
from plan import LARGE_SIDE, SIDE
from steps import RECORD, Runner, Step, write_json
from variants import graphs_of
from work import machine

#: Seconds on a quiet core for 1,000 images of 28 pixels and the small model; others are multiples.
_SECONDS = 75
_TIMES = {"joint": 1.0, "wide": 2.2, "large": 2.0}


def build(run: Path, out: Path, count: int, tuned: int, seeds: tuple[int, ...], resamples: int) -> list[Step]:
    """Every step, the most telling ones first: what a run that is cut short leaves can be shown."""
    references = {
        f"reference.{kind}.{side}": path
        for side, suffix in ((SIDE, "28"), (LARGE_SIDE, "40"))
        for kind, path in (
            ("test", run / "references" / f"test.{suffix}.npz"),
            ("train", run / "references" / "train.npz" if side == SIDE else out / "tune.samples" / "train.large.npz"),
        )
    }
    steps = [
        Step(
            "tune.samples", {"count": tuned, "seed": seeds[0]},
            partial(fewer_work.tuning_samples, run=run, seed=seeds[0], count=tuned), (), 5,
        )
    ]  # fmt: skip
    for name, images in references.items():
        yardstick = run / f"yardstick.{name.rsplit('.', 1)[1]}" / "yardstick.pt2"
        action = partial(fewer_work.reference, images=images, yardstick=yardstick)
        steps.append(Step(name, {"images": str(images)}, action, ("tune.samples",), 10))

    def path(setting: Setting, method: Method, seed: int, *, tuning: bool = False) -> None:
        side = side_of(setting.source)
        real = f"reference.{'train' if tuning else 'test'}.{side}"
        held = method.objective in graphs_of(setting.model)[0]
        made = f"seed{seed}/bundle.{setting.model}"
        name = f"{'tune' if tuning else f'seed{seed}'}/{setting.name}.{method.name}"
        many = tuned if tuning else count
        if not held and made not in {step.name for step in steps}:
            asked = {"objective": method.objective}
            steps.append(Step(made, asked, partial(_export, run, seed, setting.model), (), 40))
        lengths = dict(LENGTHS if tuning else REPORTED)
        if not method.stops:
            del lengths[SHORTEST]
        if method.stops and setting.preset and not tuning:
            lengths[PRESET_LENGTH] = setting.preset
        how = {
            "setting": setting, "method": method, "count": many, "resamples": 0 if tuning else resamples,
            "samples": (out / "tune.samples" if tuning else run / f"seed{seed}" / "samples") / f"{setting.source}.npz",
            "bundle": run / f"seed{seed}" / f"model.{setting.model}" / "bundle" if held else out / made,
            "yardstick": run / f"yardstick.{side}" / "yardstick.pt2", "real": out / real,
        }  # fmt: skip
        seconds = _SECONDS * _TIMES["large" if side == LARGE_SIDE else setting.model] * many / 1000
        told = {"lengths": {f"{k:g}": v for k, v in lengths.items()}, "count": many, "resamples": resamples}
        needs = ("tune.samples", real, *(() if held else (made,)))
        steps.append(Step(name, told, partial(fewer_work.paths, lengths=lengths, **how), needs, seconds))
        if method.stops and not tuning:
            action = partial(_ruled, of=out / name, **how)
            steps.append(Step(f"{name}.rule", {"rules": RULED}, action, (name, real), seconds / 4))

    def spread(setting: Setting, method: Method, seed: int) -> None:
        real, measured = f"reference.test.{side_of(setting.source)}", f"seed{seed}/{setting.name}.{method.name}"
        tuned_by = dict.fromkeys((f"tune/{setting.name}.{method.name}", f"tune/{setting.name}.stop"))
        steps.append(
            Step(
                f"{measured}.spread", {"resamples": resamples},
                partial(
                    fewer_work.neighbours, measured=out / measured, real=out / real, resamples=resamples,
                    keys=partial(_telling, out, tuple(tuned_by), setting, method),
                ),
                (measured, real, *tuned_by), 5,
            )
        )  # fmt: skip

    for settings, methods in WORK:
        for setting in settings:
            for method in methods:
                path(setting, METHODS[method], seeds[0], tuning=True)
                path(setting, METHODS[method], seeds[0])
                spread(setting, METHODS[method], seeds[0])
        for seed in seeds[1:]:
            for setting in settings:
                for method in methods:
                    path(setting, METHODS[method], seed)
                    spread(setting, METHODS[method], seed)
    shown = [setting for setting in SETTINGS if setting.name in PICTURED]
    needs = tuple(f"tune/{setting.name}.stop" for setting in shown)
    rows = partial(_pictured, run / f"seed{seeds[0]}", out, shown)
    steps.append(Step("picture", {"of": PICTURED}, partial(fewer_work.picture, rows=rows), needs, 3))
    return steps


def _pictured(made: Path, out: Path, shown: list[Setting]) -> list[tuple[str, Path, Path, int, float]]:
    """What `fewer_work.picture` draws: generated, many short steps, few long ones; each length as chosen."""
    rows = []
    for setting in shown:
        name = f"tune/{setting.name}.stop"
        lengths = _read(out, name).lengths(setting, "stop")
        samples, bundle = made / "samples" / f"{setting.source}.npz", made / f"model.{setting.model}" / "bundle"
        rows.append((f"{setting.source}, {setting.model}", samples, bundle, 0, 0.0))
        for steps in (20, 4):
            rows.append((f"{steps} x {lengths[steps]:g}", samples, bundle, steps, lengths[steps]))
    return rows


def _read(out: Path, *names: str) -> Found:
    facts = {name: json.loads((out / name / RECORD).read_text())["facts"] for name in names}
    return Found({"plan": {"seeds": []}, "paths": facts})


def _ruled(folder: Path, of: Path, **how: Any) -> dict[str, Any]:
    """Few steps whose length a rule gives: the cosine of these images' gradients, and the path of the paper's preset."""
    turns = json.loads((of / RECORD).read_text())["facts"]["turns"]
    cosines = {turn["length"]: turn["first"][1] for turn in turns if turn["first"] is not None}
    by_cosine = {steps: round(length_at(cosines, target_cosine(steps)), 3) for steps in RULED}
    lengths = {length: steps for steps, length in by_cosine.items()}
    preset = how["setting"].preset
    kept = {4: round(preset * PRESET_LENGTH / 4, 4)} if preset else {}
    lengths |= {length: steps for steps, length in kept.items()}
    facts = fewer_work.paths(folder, lengths=lengths, **how)
    keys = [f"{length:g}.{steps}" for length, steps in lengths.items()]
    spread = fewer_work.neighbours(folder, folder, lambda: keys, how["real"], how["resamples"])
    return facts | spread | {"cosine": by_cosine, "path": kept}


def _telling(out: Path, names: tuple[str, ...], setting: Setting, method: Method) -> list[str]:
    return _read(out, *names).telling(setting, method.name)


def _export(run: Path, seed: int, model: str, folder: Path) -> None:
    """The bundle of a model with the gradient of `logit`, which `run.py` makes for the small one alone."""
    checkpoint = run / f"seed{seed}" / f"model.{model}" / "run" / "last.safetensors"
    side = LARGE_SIDE if model == "large" else SIDE
    made = folder / "made"
    jboost(
        "export", "--ckpt", str(checkpoint), "-o", str(made), "--format", "onnx", "--objective", "logit",
        "--resolution", str(side),
    )  # fmt: skip
    for path in made.iterdir():
        path.rename(folder / path.name)
    made.rmdir()


def make_runner(run: Path, out: Path, count: int, tuned: int, seeds: tuple[int, ...], resamples: int) -> Runner:
    return Runner(out, build(run, out, count, tuned, seeds, resamples), say=partial(print, flush=True))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path("out/quality"), help="what run.py made")
    parser.add_argument("--out", type=Path, default=Path("out/fewer"))
    parser.add_argument("--seeds", default="0,1,2", help="with commas; the first one's samples choose the lengths")
    parser.add_argument("--count", type=int, default=500, help="images that are measured, of each generator and seed")
    parser.add_argument("--tuning", type=int, default=400, help="images that lengths are chosen on")
    parser.add_argument("--resamples", type=int, default=100, help="of the bootstrap")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="steps at a time")
    parser.add_argument("--only", nargs="+", default=[], metavar="STEP", help="steps by name, beginning or pattern")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    run, out, seeds = args.run.resolve(), args.out.resolve(), tuple(int(seed) for seed in args.seeds.split(","))
    if not (run / "references").is_dir():
        parser.error(f"{run} holds no run of benchmarks/paper/run.py; do that first")
    prepare = partial(make_runner, run, out, args.count, args.tuning, seeds, args.resamples)
    runner = prepare()
    out.mkdir(parents=True, exist_ok=True)
    try:
        run_parallel(runner, prepare, args.jobs, args.only)
    finally:
        done = {name: record for name in runner.steps if (record := runner.record(name)) is not None}
        facts = {name: record["facts"] for name, record in done.items() if "rows" in record["facts"]}
        spreads = {
            name.removesuffix(".spread"): record["facts"]["neighbours"]
            for name, record in done.items()
            if "neighbours" in record["facts"]
        }
        settings = {"seeds": seeds, "count": args.count, "tuning": args.tuning, "resamples": args.resamples}
        seconds = sum(record["seconds"] for record in done.values())
        write_json(
            out / "fewer.json",
            {
                "plan": settings,
                "machine": machine(),
                "seconds": seconds,
                "missing": [n for n in runner.steps if n not in done],
                "paths": facts,
                "neighbours": spreads,
            },
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
