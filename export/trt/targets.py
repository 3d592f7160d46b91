"""Targets of TensorRT plans: this machine's GPU, or a kind of GPU that this machine need not have."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from jboost.engine.backends.trt.plans import PlanKey, machine_key
from jboost.engine.backends.trt.variant import INSTALL, VARIANTS, Variant, found_variants, load_variant
from jboost.engine.errors import BadInputError
from jboost.engine.system.devices import DeviceName
from jboost.engine.system.gpu import Gpu, find_driver, sm_of


@dataclass(frozen=True)
class Target:
    """A kind of GPU to build for, and the TensorRT variant that builds.

    Attributes:
        variant: the TensorRT variant that builds.
        capability: compute capability, like ``"8.6"``.
        gpu: this machine's GPU if it has that capability, else None. Plans are run and verified on it.
        index: the GPU's number.
    """

    variant: Variant
    capability: str
    gpu: Gpu | None
    index: int

    @property
    def model(self) -> str | None:
        """GPU model that a plan is tied to; None if the plan runs on any GPU of its compute capability."""
        return None if self.gpu is None or self.variant.name == "tensorrt_rtx" else self.gpu.name

    @property
    def machine(self) -> str:
        """Kind of GPU, as written in file names."""
        return machine_key(self.model, self.capability)


def find_targets(names: Sequence[str] = (), device: str = "auto") -> tuple[Target, ...]:
    """Return the targets: this machine's GPU, or the kinds in `names`, which this machine need not have.

    Args:
        names: compute capabilities like ``"sm_86"``, for TensorRT-RTX.
        device: ``"cuda:N"`` chooses this machine's GPU N; any other device chooses the first.

    Raises:
        BadInputError: there is no GPU or no TensorRT, or no installed TensorRT builds for these GPUs.
    """
    index = DeviceName.parse(device).index
    if not names:
        return (_target_here(index),)
    try:
        rtx = load_variant("tensorrt_rtx")
    except BadInputError as e:
        raise BadInputError(f"--gpu builds with TensorRT-RTX: {e}") from e
    here, targets = find_driver().gpus[index : index + 1], []
    for name in dict.fromkeys(names):
        found = re.fullmatch(r"sm_(\d+)(\d)", name)
        if found is None:
            raise BadInputError(f"unknown GPU {name!r}; give its compute capability, e.g. --gpu sm_86 for 8.6")
        capability = f"{found[1]}.{found[2]}"
        if capability not in rtx.capabilities:
            known = ", ".join(map(sm_of, rtx.capabilities))
            raise BadInputError(
                f"{rtx} does not build for {name} (it builds for {known}); build on a machine with such a GPU and "
                f"TensorRT ({INSTALL['tensorrt']}), without --gpu"
            )
        targets.append(Target(rtx, capability, here[0] if here and here[0].capability == capability else None, index))
    return tuple(targets)


def _target_here(index: int) -> Target:
    driver = find_driver()
    if driver.problem is not None:
        raise BadInputError(
            f"TensorRT builds a plan on the GPU that will run it, but {driver.problem}; to build with TensorRT-RTX without "
            "a GPU, name the kind of GPU, e.g. --gpu sm_86, or leave trt out of --format"
        )
    if index >= len(driver.gpus):
        raise BadInputError(f"device 'cuda:{index}' is not there: this machine has {len(driver.gpus)} GPU(s)")
    gpu, why = driver.gpus[index], []
    for name in found_variants():
        try:
            variant = load_variant(name)
        except BadInputError as e:
            why.append(str(e))
            continue
        if not variant.capabilities or gpu.capability in variant.capabilities:
            return Target(variant, gpu.capability, gpu, index)
        why.append(f"{variant} does not build for the {gpu}; install TensorRT: {INSTALL['tensorrt']}")
    raise BadInputError("; ".join(why) or f"no {' or '.join(VARIANTS.values())} is installed; {INSTALL['tensorrt']}")


def target_here(key: PlanKey) -> Target | None:
    """Return the target of the plan of `key` if this machine's first GPU and installed TensorRT match it, else None."""
    gpus = find_driver().gpus[:1]
    if not gpus or gpus[0].capability != key.compute_capability or key.gpu not in (None, gpus[0].name):
        return None
    try:
        variant = load_variant(key.flavour)
    except BadInputError:
        return None
    return Target(variant, key.compute_capability, gpus[0], 0) if variant.version == key.version else None
