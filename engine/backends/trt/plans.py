"""The plans of a bundle: the machine and files each is tied to, and the choice of one for a run on this machine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from jboost.engine.backends.request import RunRequest, export_command, why_no_graph
from jboost.engine.bundle import Bundle
from jboost.engine.errors import BadInputError
from jboost.engine.system.devices import DeviceName
from jboost.engine.system.gpu import Gpu, find_driver, sm_of

from .variant import VARIANTS, load_variant


@dataclass(frozen=True)
class PlanKey:
    """A plan's sidecar: the machine that the plan is tied to, and the files it was built from.

    TensorRT tunes a plan for one GPU model. TensorRT-RTX builds for a compute capability and leaves the rest to the
    machine that runs the plan, so its plans name no GPU. Each reads only the plans of its own version.

    Attributes:
        flavour: module of the TensorRT variant that built the plan, ``"tensorrt"`` or ``"tensorrt_rtx"``.
        version: the module's version.
        gpu: name of the GPU; None for any GPU of the compute capability.
        compute_capability: like ``"8.6"``.
        dtype: precision of the network.
        batch_size: images per call.
        sources: SHA-256 of the ONNX graph and weights that the plan was built from, by manifest name.
        bounds: largest differences from eager autograd, by figure; see `jboost.engine.backends.trt.check`.
    """

    # Bundles hold the fields as JSON keys, so this one keeps its name although the code says "variant".
    flavour: str
    version: str
    gpu: str | None
    compute_capability: str
    dtype: str
    batch_size: int
    sources: dict[str, str]
    bounds: dict[str, float]

    @property
    def machine(self) -> str:
        """Kind of GPU, as written in file names: ``"sm_86"`` or ``"nvidia-h200-sm_90"``."""
        return machine_key(self.gpu, self.compute_capability)

    @property
    def target(self) -> str:
        """The GPU and TensorRT that run the plan, for messages and the manifest."""
        gpu = f"compute capability {self.compute_capability}"
        if self.gpu is not None:
            gpu = f"{self.gpu} ({gpu})"
        return f"{gpu}, {VARIANTS[self.flavour]} {self.version}"

    def to_json(self) -> str:
        """Return the sidecar's text."""
        return json.dumps(asdict(self), indent=2) + "\n"


def machine_key(gpu: str | None, capability: str) -> str:
    """Return a kind of GPU as written in file names: ``"sm_86"``, or ``"nvidia-h200-sm_90"`` for one model."""
    if gpu is None:
        return sm_of(capability)
    words = "".join(c if c.isalnum() else " " for c in gpu.lower()).split()
    return "-".join((*words, sm_of(capability)))


def artefact_name(objective: str, dtype: str, resolution: int, machine: str) -> str:
    """Return the manifest name of a gradient's plan; `machine` comes from `machine_key`."""
    return f"{_prefix(objective, dtype, resolution)}{machine}"


def forward_name(dtype: str, resolution: int, machine: str) -> str:
    """Return the manifest name of a forward pass's plan; `machine` comes from `machine_key`."""
    return f"{_prefix('forward', dtype, resolution)}{machine}"


def key_name(plan: str) -> str:
    """Return the manifest name of a plan's sidecar."""
    return f"{plan}/key"


def check_name(resolution: int) -> str:
    """Return the manifest name of the check images of plans."""
    return f"trt/check/{resolution}"


def _prefix(what: str, dtype: str, resolution: int) -> str:
    return f"trt/{what}/{dtype}/{resolution}/"


def read_key(bundle: Bundle, plan: str) -> PlanKey:
    """Read the sidecar of the plan with the manifest name `plan`.

    Raises:
        BadInputError: the sidecar is missing, changed or not a sidecar.
    """
    path = bundle.checked_path(key_name(plan))
    try:
        return PlanKey(**json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as e:
        raise BadInputError(f"{path} does not say what its plan is for ({e}); export the bundle again") from e


@dataclass(frozen=True)
class Plan:
    """A plan of a bundle: its name in the manifest, and its sidecar."""

    name: str
    key: PlanKey


def plans_of(bundle: Bundle, objective: str, dtype: str, resolution: int) -> Iterator[Plan]:
    """Yield a bundle's plans for a gradient, one per kind of GPU.

    Raises:
        BadInputError: the bundle is not trusted; plans are code.
    """
    prefix = _prefix(objective, dtype, resolution)
    for name in bundle.config.artefacts:
        if name.startswith(prefix) and not name.endswith("/key"):
            why = bundle.why_untrusted(name)
            if why is not None:
                raise BadInputError(why)
            yield Plan(name, read_key(bundle, name))


def find_gpu(device: str) -> Gpu:
    """Return the GPU that `device` names: ``"auto"``, ``"cuda"`` or ``"cuda:N"``.

    Raises:
        BadInputError: `device` is not a GPU, there is no GPU with that number, or there is no GPU at all.
    """
    name = DeviceName.parse(device)
    if name.kind == "cpu":
        raise BadInputError(f"it runs on NVIDIA GPUs, not on {device!r}; use --device cuda, or another engine")
    driver = find_driver()
    if driver.problem is not None:
        raise BadInputError(f"{driver.problem}; use --engine onnx, compile or eager")
    if name.index >= len(driver.gpus):
        raise BadInputError(f"device {device!r} is not there: this machine has {len(driver.gpus)} GPU(s)")
    return driver.gpus[name.index]


def find_plan(bundle: Bundle, request: RunRequest) -> Plan:
    """Return the bundle's plan for a request on this machine.

    Raises:
        BadInputError: no plan can serve the request; the message says why, and what to type.
    """
    objective, dtype, resolution = request.objective, request.dtype, request.resolution
    gpu = find_gpu(request.device)
    plans = list(plans_of(bundle, objective, dtype, resolution))
    name = plans[0].name if plans else artefact_name(objective, dtype, resolution, gpu.sm)
    why = why_no_graph(bundle, name, "trt", request)
    if why is not None:
        raise BadInputError(why)
    refusals = [(_refusal(bundle, plan, gpu, resolution, request.batch_size), plan) for plan in plans]
    for refusal, plan in refusals:
        if refusal is None:
            return plan
    # Report the plan that passed the most checks: it is the likeliest to be the intended one.
    _, why = max(refusal for refusal, _ in refusals if refusal is not None)
    rebuild = export_command("trt", request, batch_size=request.batch_size)
    raise BadInputError(f"{why} build it here with: {rebuild}")


def why_unusable(bundle: Bundle, request: RunRequest) -> str | None:
    """Return why none of the bundle's plans can serve a request; None if one can."""
    try:
        find_plan(bundle, request)
    except BadInputError as e:
        return str(e)
    return None


def _refusal(bundle: Bundle, plan: Plan, gpu: Gpu, resolution: int, batch_size: int | None) -> tuple[int, str] | None:
    """Return (number of the failed check, why `plan` cannot serve a run on `gpu`); None if it can."""
    key = plan.key
    if key.compute_capability != gpu.capability or key.gpu not in (None, gpu.name):
        return 0, f"the plan was built for {key.target}, this GPU is {gpu};"
    try:
        variant = load_variant(key.flavour)
    except BadInputError as e:
        return 1, f"the plan is for {VARIANTS[key.flavour]} {key.version}: {e}; or"
    if variant.version != key.version:
        return 2, f"the plan was built by {VARIANTS[key.flavour]} {key.version}, {variant.version} is installed;"
    forward = forward_name(key.dtype, resolution, key.machine)
    for name in (plan.name, forward):
        changed = [
            source
            for source, sha256 in read_key(bundle, name).sources.items()
            if bundle.artefact(source).sha256 != sha256
        ]
        if changed:
            file = bundle.artefact(changed[0]).file
            return 3, f"{bundle.artefact(name).file} was built from another {file} than the bundle's;"
    if batch_size not in (None, key.batch_size):
        return 4, f"the plan takes batches of {key.batch_size}, not {batch_size}; leave -b out, or"
    return None
