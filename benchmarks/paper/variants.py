"""What is compared: the models, as flags of `jboost train`, and the ways to boost, as flags of `jboost boost`."""

from __future__ import annotations

from dataclasses import dataclass, replace

from plan import LARGE_FACTOR, LARGE_SIDE, SIDE, Plan
from tuning import Grid

# An attack that gains no step while a run lasts.
NEVER = 10**9

WIDE = (
    "small_resnet40"  # 2.8 times the arithmetic of the 24 channels: the ratio of the paper's WRN-50-2 to its ResNet-50
)

#: Without boosting.
NONE = "none"


@dataclass(frozen=True)
class Model:
    """A model to boost with.

    Attributes:
        name: of it.
        what: in words.
        flags: of `jboost train`, beside those that all models share.
        samples: files of generated images that it is trained on, without suffix.
        large: whether it is trained on 40 pixels.
    """

    name: str
    what: str
    flags: tuple[str, ...] = ()
    samples: tuple[str, ...] = ("train1", "train2")
    large: bool = False

    def train_flags(self, plan: Plan) -> list[str]:
        """What follows ``jboost train --real ... --generated ... -o ...``."""
        iterations = plan.large_iterations if self.large else plan.model_iterations
        shared = {
            "--preset": "fashion-mnist", "--batch-size": plan.batch_size, "--iterations": iterations,
            "--warmup": iterations // 20, "--generated-steps": 3, "--grow-every": max(1, iterations // 10),
            "--validate-every": iterations, "--save-every": max(1, iterations // 6), "--boost-steps": 5,
            "--log-with": "none",
        }  # fmt: skip
        # A later flag wins over an earlier one.
        return [str(part) for pair in shared.items() for part in pair] + list(self.flags)


MODELS = {
    model.name: model
    for model in (
        Model(
            "classifier",
            "robust classifier alone",
            (
                "--real-attack-loss", "ce", "--bce-real", "0", "--bce-generated", "0", "--ce-generated", "0",
                "--generated-steps", "0", "--grow-every", str(NEVER),
            ),
        ),
        Model(
            "plain",
            "non-robust joint model",
            ("--real-steps", "0", "--generated-steps", "0", "--grow-every", str(NEVER)),
        ),
        Model("joint", "robust joint model, small"),
        Model("wide", "robust joint model, wide", ("--arch", WIDE)),
        Model(
            "large",
            f"robust joint model of {LARGE_SIDE} pixels",
            (
                "--resolution", str(LARGE_SIDE),
                "--real-step-size", f"{0.25 * LARGE_FACTOR:.3f}", "--real-eps", f"{1.0 * LARGE_FACTOR:.3f}",
                "--generated-step-size", f"{0.1 * LARGE_FACTOR:.3f}", "--generated-eps", f"{10 * LARGE_FACTOR:.3f}",
            ),
            samples=("train-large",),
            large=True,
        ),
    )
}  # fmt: skip


#: What is tried for each line of a table, on other samples than those that are reported. The step sizes of SGLD multiply the
#: gradient, whose norm is near 2.5 on these models, so both grids begin with steps of about the same lengths.
PGD = Grid(sizes=(0.1, 0.2, 0.4, 0.8))
SGLD = Grid(sizes=(0.04, 0.08, 0.16, 0.32), noises=(0.0, 1e-4, 1e-3))
ABLATION_STEPS = 30


@dataclass(frozen=True)
class Variant:
    """A way to boost.

    Attributes:
        name: of it.
        what: in words.
        model: the key of a model.
        flags: of `jboost boost`.
        grid: the settings it chooses from; None: `flags` say it all, or `steps_of` does.
        steps_of: another ``SOURCE.VARIANT`` whose choice is taken.
        longer: what its step size is multiplied by.
    """

    name: str
    what: str
    model: str
    flags: tuple[str, ...] = ()
    grid: Grid | None = PGD
    steps_of: str | None = None
    longer: float = 1.0


def _objective(name: str) -> Variant:
    return Variant(name, f"objective {name}", "joint", ("--objective", name))


_BY_MODEL = (
    Variant("classifier", MODELS["classifier"].what, "classifier", ("--objective", "ce")),
    Variant("plain", MODELS["plain"].what, "plain", ("--objective", "joint")),
    Variant("joint", MODELS["joint"].what, "joint", ("--objective", "joint")),
    Variant("wide", MODELS["wide"].what, "wide", ("--objective", "joint")),
)
_SGLD = Variant("sgld", "SGLD", "joint", ("--update", "sgld", "--objective", "logit"), SGLD)
_JOINT = replace(_BY_MODEL[2], grid=None)
_SGLD_AS_CHOSEN = replace(_SGLD, grid=None, steps_of="flow2.sgld")
_LONG = ("--objective", "joint", "--steps", str(ABLATION_STEPS), "--step-size", "0.2")

OBJECTIVES = ("logit", "ce", "bce", "ce-bce", "joint", "energy")

#: By generator: what is done with its samples.
VARIANTS: dict[str, tuple[Variant, ...]] = {
    "flow1": (*_BY_MODEL, _SGLD, _objective("logit")),
    "flow2": (
        *_BY_MODEL,
        _SGLD,
        *(_objective(name) for name in OBJECTIVES if name != "joint"),
        Variant("stop", "early stopping", "joint", (*_LONG, "--early-stop"), None),
        Variant("no-stop", "no early stopping", "joint", (*_LONG, "--no-early-stop"), None),
        Variant("bf16", "bf16", "joint", ("--objective", "joint", "--dtype", "bf16"), None, "flow2.joint"),
    ),
    "vae": (replace(_JOINT, steps_of="flow2.joint"), _SGLD_AS_CHOSEN),
    "large": (
        replace(_JOINT, steps_of="flow2.joint", longer=LARGE_FACTOR),
        replace(_SGLD_AS_CHOSEN, longer=LARGE_FACTOR),
        Variant("large", MODELS["large"].what, "large", ("--objective", "joint"), None, "flow2.joint", LARGE_FACTOR),
    ),
}


def graphs_of(model: str) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """The objectives that are followed through a model, and the sizes of the images: what its bundle needs graphs for."""
    used = [
        (source, variant) for source, variants in VARIANTS.items() for variant in variants if variant.model == model
    ]
    objectives = {variant.flags[variant.flags.index("--objective") + 1] for _, variant in used}
    sizes = {LARGE_SIDE if source == "large" else SIDE for source, _ in used}
    return tuple(sorted(objectives)), tuple(sorted(sizes))


SOURCES = {
    "flow1": "flow, 1 step",
    "flow2": "flow, 2 steps",
    "vae": "VAE, never trained on",
    "large": f"flow, 2 steps, {LARGE_SIDE} pixels",
}
