"""How a run was done and what it took, in words and small tables, from its own record."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from plan import LARGE_SIDE, SIDE
from tuning import TIE
from variants import MODELS, PGD, SGLD


def describe_method(values: Mapping[str, Any]) -> list[str]:
    """Data, generators, models, boosting, distance and seeds, as Markdown."""
    plan = values["plan"]
    accuracies = ", ".join(f"{value:.1%}" for value in values["yardsticks"].values()) or "not trained yet"
    seeds = ", ".join(map(str, plan["seeds"]))
    used = sorted({row["engine"] for row in values["measurements"] if row.get("dtype") == "fp32"})
    engines = " or ".join(f"`{name}`" for name in used) or "not chosen yet"
    return [
        f"- **Data.** {plan['training_images']:,} training images; the reference is {plan['test_images']:,} test images, "
        "which nothing was trained or tuned on.",
        f"- **Generator.** A class-conditional rectified flow of 100 principal components ({plan['flow_iterations']:,} "
        f"iterations), straightened by one reflow ({plan['reflow_pairs']:,} pairs, {plan['reflow_iterations']:,} "
        "iterations), sampled in one or two Euler steps. The other one is a class-conditional VAE of pixels "
        f"({plan['vae_iterations']:,} iterations).",
        f"- **Models.** `jboost train --preset fashion-mnist`, {plan['model_iterations']} iterations of "
        f"{plan['batch_size']} real and as many generated images ({plan['large_iterations']} for the larger size), on "
        f"{plan['training_samples']:,} one-step and as many two-step samples; those that are boosted come from other "
        "noise. Each adds to the flags that all share:",
        *(f"    - {model.what}: {_flags(model.flags)}" for model in MODELS.values()),
        f"- **Boosting.** {plan['samples']:,} samples of each generator and seed, engine {engines}. Steps, step size and "
        f"noise are chosen once for each line of a table, on {plan['tuning_samples']} other samples of seed "
        f"{plan['seeds'][0]}, against training images: see table 5.",
        "- **Distance.** `jboost eval` in the 64 features of a plain classifier that is trained apart from everything "
        f"else (accuracy on the test images at {SIDE} and {LARGE_SIDE} pixels: {accuracies}).",
        f"- **Seeds.** {seeds}: generators, samples, models and noise anew; ± is the standard deviation over them.",
    ]


def describe_chosen(values: Mapping[str, Any]) -> list[str]:
    """The settings that were chosen, from which grids, as Markdown."""
    lines = ["| line | chosen: steps x size | noise | FID there | runs of the grid |", "|---|---|---|---|---|"]
    for name, found in values["tuning"].items():
        at = dict(zip(found["chosen"][::2], found["chosen"][1::2], strict=True))
        runs = {(one["size"], one["noise"]) for one in found["tried"]}
        grown = f", grown {found['growths']} times" if found["growths"] else ""
        lines.append(
            f"| {name} | {at['--steps']} x {at['--step-size']} | {at.get('--noise', '-')} | {found['fid']:.2f} | "
            f"{len(runs)}{grown} |"
        )
    grids = (("PGD", PGD), ("SGLD", SGLD))
    tried = "; ".join(
        f"{rule} {', '.join(f'{size:g}' for size in grid.sizes)}"
        + ("" if grid.noises == (None,) else f" with noise {', '.join(f'{noise:g}' for noise in grid.noises)}")
        for rule, grid in grids
    )
    return [
        *lines,
        "",
        f"Both rules choose in the same way. Step sizes at first: {tried}, each after {', '.join(map(str, PGD.steps))} "
        f"steps. Settings within {TIE:.0%} of the lowest FID count as equal, and the lowest of them inside the grid is taken. "
        "If none lies inside, the grid grows at that edge; a choice that still lies on the edge would have stopped the run. "
        "The VAE and the larger images take the two-step flow's choice.",
    ]


def describe_models(values: Mapping[str, Any]) -> list[str]:
    """What training said of each model, as Markdown."""
    if not values["models"]:
        return []
    lines = ["| seed | model | accuracy | robust accuracy | l0 |", "|---|---|---|---|---|"]
    for row in values["models"]:
        lines.append(
            f"| {row['seed']} | {MODELS[row['model']].what} | {row['accuracy']:.1%} | {row['robust_accuracy']:.1%} | "
            f"{row['realness_real']:.2f} |"
        )
    return [
        *lines,
        "",
        "Of 500 real images that were kept from training; robust accuracy is under the attack that the model was trained "
        "with, which for the non-robust one is none.",
    ]


def describe_pixels(values: Mapping[str, Any]) -> list[str]:
    """How far bf16 moved the pixels, as Markdown."""
    if not values["pixels"]:
        return ["Pixels of the two were not compared."]
    lines = [
        "| grey levels of 255 apart | largest | median of an image's largest | median pixel | pixels that differ |",
        "|---|---|---|---|---|",
    ]
    for row in values["pixels"]:
        lines.append(
            f"| seed {row['seed']} | {row['largest']} | {row['median_of_largest']:g} | {row['median']:g} | "
            f"{row['share_of_pixels']:.1%} |"
        )
    return lines


def describe_time(values: Mapping[str, Any]) -> list[str]:
    """The machine, and seconds by kind of step, as Markdown. Of a step that was killed the last attempt counts."""
    machine = values["machine"]
    kinds: dict[str, list[float]] = {}
    for name, step in values["steps"].items():
        kinds.setdefault(_kind(name), []).append(step["seconds"])
    total = sum(sum(seconds) for seconds in kinds.values())
    again = sum(step["attempts"] > 1 for step in values["steps"].values())
    return [
        f"{total / 60:.0f} minutes of work, the sum over steps that run side by side, on {machine['cores']} cores of "
        f"{machine['cpu']}; {machine['system']}, Python "
        f"{machine['python']}, torch {machine['torch']}, jboost {machine['jboost']}."
        + (f" {again} of the steps took more than one attempt; their last one is counted." if again else ""),
        "",
        "| step | times | seconds each | minutes in all |",
        "|---|---|---|---|",
        *(f"| {k} | {len(s)} | {sum(s) / len(s):.0f} | {sum(s) / 60:.1f} |" for k, s in kinds.items()),
    ]


def _kind(name: str) -> str:
    """``seed1/boost/flow1.joint`` -> ``boost``, ``seed1/model.wide`` -> ``model.wide``."""
    own = name.split("/", 1)[1] if name.startswith("seed") else name
    return own if own.startswith("model.") else own.split("/")[0].split(".")[0]


def _flags(flags: tuple[str, ...]) -> str:
    return f"`{' '.join(flags)}`" if flags else "none"
