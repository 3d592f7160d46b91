"""The benchmark as steps, and what they found as one table of measurements."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import work
from plan import LARGE_SIDE, SIDE, Plan
from steps import RECORD, Action, Runner, Step
from variants import MODELS, NONE, SOURCES, VARIANTS, Variant

#: Of a summary of `jboost boost`, what is kept.
KEPT = (
    "images", "steps", "step_size", "update", "objective", "steps_used", "stopped_early", "l0", "engine", "dtype",
    "seconds", "images_per_second", "realness_before", "realness_after", "accuracy_before", "accuracy_after", "l2_moved",
)  # fmt: skip


def side_of(source: str) -> int:
    """The size of a source's images, in pixels."""
    return LARGE_SIDE if source == "large" else SIDE


def build_steps(plan: Plan, data: Path, out: Path) -> list[Step]:
    """Every step, each after those it needs; seed by seed, so that a run that is cut short has whole seeds."""
    steps: list[Step] = []
    sizes = plan.to_dict()

    def add(name: str, kind: str, action: Action, needs: tuple[str, ...], told: Any, *, resumes: bool = False) -> str:
        steps.append(Step(name, {"asked": told}, action, needs, plan.seconds(kind), resumes))
        return name

    def pick(*names: str) -> dict[str, Any]:
        return {name: sizes[name] for name in names}

    references = add(
        "references", "references", partial(work.references, data=data, plan=plan), (),
        {"data": str(data), **pick("test_images", "training_images")},
    )  # fmt: skip
    for side, kind in ((SIDE, "yardstick"), (LARGE_SIDE, "yardstick-large")):
        add(
            f"yardstick.{side}", kind, partial(work.yardstick, data=data, plan=plan, side=side), (references,),
            {"side": side, **pick("yardstick_epochs")},
        )  # fmt: skip

    for seed in plan.seeds:
        at = f"seed{seed}"
        flow = add(
            f"{at}/flow", "flow", partial(work.flow, data=data, plan=plan, seed=seed), (references,),
            {"seed": seed, **pick("flow_iterations", "reflow_pairs", "reflow_iterations")},
        )  # fmt: skip
        vae = add(
            f"{at}/vae", "vae", partial(work.vae, data=data, plan=plan, seed=seed), (references,),
            {"seed": seed, **pick("vae_iterations")},
        )  # fmt: skip
        drawn = add(
            f"{at}/samples", "samples",
            partial(work.samples, data=data, plan=plan, seed=seed, flow=out / flow, vae=out / vae),
            (flow, vae), {"seed": seed, **pick("training_samples", "samples", "tuning_samples")},
        )  # fmt: skip
        for model in MODELS.values():
            add(
                f"{at}/model.{model.name}", f"model.{model.name}",
                partial(work.model, data=data, plan=plan, seed=seed, chosen=model, samples=out / drawn),
                (drawn,), {"seed": seed, "flags": model.train_flags(plan), "samples": model.samples}, resumes=True,
            )  # fmt: skip
        if seed == plan.seeds[0]:
            _add_tuning(add, plan, out, drawn)
        _add_boosting(add, plan, out, seed, drawn)
    return steps


def _add_tuning(add: Callable[..., str], plan: Plan, out: Path, drawn: str) -> None:
    """Steps and step sizes are chosen once, on samples of the first seed that are not reported, against training images."""
    seed = plan.seeds[0]
    for source, variants in VARIANTS.items():
        for variant in variants:
            if variant.grid is None:
                continue
            model = f"seed{seed}/model.{variant.model}"
            add(
                f"tune/{source}.{variant.name}", "tune",
                partial(
                    work.tune, plan=plan, variant=variant, samples=out / drawn / f"tune{source[-1]}.npz",
                    bundle=out / model / "bundle", reference=out / "references" / "train.npz",
                    measure=out / f"yardstick.{SIDE}" / "yardstick.pt2",
                ),
                (model, drawn, "references", f"yardstick.{SIDE}"),
                {"flags": variant.flags, "grid": variant.grid.to_dict()},
            )  # fmt: skip


def _add_boosting(add: Callable[..., str], plan: Plan, out: Path, seed: int, drawn: str) -> None:
    at = f"seed{seed}"
    for source, variants in VARIANTS.items():
        boosted = []
        for variant in variants:
            model, tuned = f"{at}/model.{variant.model}", _tuned(source, variant)
            boosted.append(
                add(
                    f"{at}/boost/{source}.{variant.name}", "boost",
                    partial(
                        _boost, variant=variant, choice=None if tuned is None else out / tuned,
                        samples=out / drawn / f"{source}.npz", bundle=out / model / "bundle",
                    ),
                    (model, drawn, *(() if tuned is None else (tuned,))),
                    {"flags": variant.flags, "longer": variant.longer},
                )
            )  # fmt: skip
        side = side_of(source)
        sets = [out / drawn / f"{source}.npz", *(out / name / "boosted.npz" for name in boosted)]
        add(
            f"{at}/eval.{source}", "eval",
            partial(
                _evaluate, names=[NONE, *(v.name for v in variants)], reference=out / "references" / f"test.{side}.npz",
                sets=sets, measure=out / f"yardstick.{side}" / "yardstick.pt2", resamples=plan.resamples,
            ),
            (drawn, *boosted, "references", f"yardstick.{side}"), {"metrics": work.METRICS, "resamples": plan.resamples},
        )  # fmt: skip
    fp32, bf16 = (f"{at}/boost/flow2.{name}" for name in ("joint", "bf16"))
    files = [out / name / "boosted.npz" for name in (fp32, bf16)]
    add(f"{at}/pixels", "pixels", lambda folder: work.pixels(*files), (fp32, bf16), {})
    if seed == plan.seeds[0]:
        _add_picture(add, out, at, drawn)


def _add_picture(add: Callable[..., str], out: Path, at: str, drawn: str) -> None:
    boosts = [f"{at}/boost/{name}" for name in ("flow1.joint", "flow2.joint", "vae.joint")]
    sources = [out / drawn / f"{name}.npz" for name in ("flow1", "flow2", "vae")]
    rows = []
    for title, source, boosted in zip(("1 step", "2 steps", "VAE"), sources, boosts, strict=True):
        rows += [(title, source), ("boosted", out / boosted / "boosted.npz")]
    rows.append(("test images", out / "references" / f"test.{SIDE}.npz"))
    add("picture", "picture", partial(work.picture, rows=rows), (drawn, *boosts, "references"), {})


def _tuned(source: str, variant: Variant) -> str | None:
    """The step that chose this variant's number of steps."""
    if variant.grid is not None:
        return f"tune/{source}.{variant.name}"
    return None if variant.steps_of is None else f"tune/{variant.steps_of}"


def _boost(folder: Path, variant: Variant, choice: Path | None, samples: Path, bundle: Path) -> dict[str, Any]:
    chosen = [] if choice is None else json.loads((choice / RECORD).read_text())["facts"]["chosen"]
    summary = work.boost(folder, variant, chosen, samples, bundle)
    return {key: summary[key] for key in KEPT}


def _evaluate(folder: Path, names: list[str], **how: Any) -> dict[str, Any]:
    measured = work.evaluate(folder / "eval.json", metrics=work.METRICS, **how)
    return dict(zip(names, measured, strict=True))


def collect(runner: Runner, plan: Plan) -> dict[str, Any]:
    """What the finished steps found; what is not there yet is left out."""
    records = {name: record for name in runner.steps if (record := runner.record(name)) is not None}
    facts = {name: record["facts"] for name, record in records.items()}
    measurements = []
    for seed in plan.seeds:
        for source in SOURCES:
            for variant, metrics in facts.get(f"seed{seed}/eval.{source}", {}).items():
                row: dict[str, Any] = {"seed": seed, "source": source, "variant": variant}
                row |= facts.get(f"seed{seed}/boost/{source}.{variant}", {})
                for key, measured in metrics.items():
                    row |= {key: measured["value"], f"{key}_interval": measured["interval"]}
                measurements.append(row)
    models = [
        {"seed": seed, "model": name} | facts[step]
        for seed in plan.seeds
        for name in MODELS
        if (step := f"seed{seed}/model.{name}") in facts
    ]
    pixels = [{"seed": seed} | facts[step] for seed in plan.seeds if (step := f"seed{seed}/pixels") in facts]
    return {
        "plan": plan.to_dict(),
        "machine": work.machine(),
        "steps": {
            name: {"seconds": record["seconds"], "attempts": record["attempts"]} for name, record in records.items()
        },
        "missing": [name for name in runner.steps if name not in records],
        "yardsticks": {name: facts[name]["accuracy"] for name in facts if name.startswith("yardstick")},
        "models": models,
        "tuning": {name.removeprefix("tune/"): facts[name] for name in facts if name.startswith("tune/")},
        "measurements": measurements,
        "pixels": pixels,
    }
