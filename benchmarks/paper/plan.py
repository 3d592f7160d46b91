"""How much of everything: every size of the benchmark, and what each kind of step takes at full size."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

SIDE, LARGE_SIDE = 28, 40

# Lengths in pixel space grow with the side of the image: the same change of every pixel is so much longer in L2.
LARGE_FACTOR = LARGE_SIDE / SIDE

#: Seconds at full size on one core, by kind of step: estimates, from single timings, to print a plan with.
SECONDS = {
    "references": 3,
    "yardstick": 42,
    "yardstick-large": 70,
    "flow": 140,
    "vae": 42,
    "samples": 4,
    "model.classifier": 150,
    "model.plain": 90,
    "model.joint": 330,
    "model.wide": 600,
    "model.large": 340,
    "tune": 60,
    "boost": 45,
    "eval": 17,
    "pixels": 1,
    "picture": 3,
}


@dataclass(frozen=True)
class Plan:
    """The sizes of a run. `scaled` shrinks them for a trial; the defaults are the real thing.

    Attributes:
        seeds: one whole run each (generators, models, samples), but for the yardsticks and the choice of steps.
        scale: what the other sizes were multiplied by.
        training_images: real images that the yardsticks and generators see, of the training split.
        test_images: the reference, of the test split.
        yardstick_epochs: over the training images.
        flow_iterations, reflow_pairs, reflow_iterations, vae_iterations: of the generators.
        training_samples: generated images of each kind that a joint model is trained on.
        samples: images that are boosted and measured, of each generator.
        tuning_samples: images that steps are chosen on.
        model_iterations, large_iterations: of `jboost train`, at 28 and at 40 pixels.
        batch_size: of `jboost train`, real and as many generated images.
        resamples: of the bootstrap.
    """

    seeds: tuple[int, ...] = (0, 1, 2)
    scale: float = 1.0
    training_images: int = 60_000
    test_images: int = 10_000
    yardstick_epochs: int = 2
    flow_iterations: int = 2000
    reflow_pairs: int = 20_000
    reflow_iterations: int = 1000
    vae_iterations: int = 2000
    training_samples: int = 5000
    samples: int = 2000
    tuning_samples: int = 400
    model_iterations: int = 300
    large_iterations: int = 200
    batch_size: int = 32
    resamples: int = 100

    @classmethod
    def scaled(cls, seeds: tuple[int, ...], scale: float) -> Plan:
        """Every count times `scale`, but no less than what the steps can work with."""
        if not 0 < scale <= 1:
            raise ValueError(f"a scale must lie above 0 and at most at 1, got {scale}")
        full = asdict(cls())
        sizes = {name: max(least, round(full[name] * scale)) for name, least in _LEAST.items()}
        return cls(seeds=seeds, scale=scale, **sizes)

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)

    def seconds(self, kind: str) -> float:
        """What a step of this kind should take. Starting a command takes its seconds at any scale."""
        return 5 + (SECONDS[kind] - 5) * self.scale if SECONDS[kind] > 5 else SECONDS[kind]


# Features have 64 dimensions, and a distance needs more images than that; training holds 500 images out; an interval needs 20
# resamples.
_LEAST = {
    "training_images": 2000,
    "test_images": 400,
    "flow_iterations": 20,
    "reflow_pairs": 400,
    "reflow_iterations": 20,
    "vae_iterations": 20,
    "training_samples": 600,
    "samples": 100,
    "tuning_samples": 80,
    "model_iterations": 4,
    "large_iterations": 4,
    "resamples": 20,
}
