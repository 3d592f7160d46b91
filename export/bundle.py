"""Export a checkpoint to a bundle: verified before it replaces an older one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from jboost.engine.backends.torch_device import find_device
from jboost.engine.bundle import Artefact, Bundle, trust_bundle
from jboost.engine.errors import BadInputError
from jboost.engine.method.objectives import resolve_objective
from jboost.engine.method.plugins import find_objective, find_update_name
from jboost.engine.samples import ReadOptions, open_samples
from jboost.engine.samples.about import label_line
from jboost.engine.samples.files import cannot_write
from jboost.engine.samples.options import AS_IT_IS
from jboost.engine.system.locks import only_writer
from jboost.engine.system.replacing import replacing_folder
from jboost.engine.system.trust import trust_folder

from .checkpoints.load import LoadedCheckpoint, load_checkpoint
from .checkpoints.outputs import check_outputs
from .compiled.aoti import check_compiler
from .l0 import mean_realness
from .request import ExportRequest, check_dtypes, check_export, check_place, sizes_text
from .trt.targets import find_targets


@dataclass(frozen=True)
class Exported:
    """The result of `export_bundle`: the bundle, notes on every assumption, and the seconds each file took."""

    bundle: Bundle
    notes: tuple[str, ...]
    seconds: dict[str, float]


def export_bundle(
    checkpoint: Path | None,
    out: Path,
    *,
    arch: str | None = None,
    num_classes: int | None = None,
    in_channels: int | None = None,
    normalization: str | None = None,
    resolutions: tuple[int, ...] | None = None,
    formats: tuple[str, ...] = ("onnx",),
    objectives: tuple[str, ...] | None = None,
    dtypes: tuple[str, ...] = ("fp32",),
    batch_size: int | None = None,
    gpus: tuple[str, ...] = (),
    opset: int | None = None,
    real: Path | None = None,
    reading: ReadOptions = AS_IT_IS,
    atol: float | None = None,
    rtol: float | None = None,
    device: str = "auto",
    updates: tuple[str, ...] = (),
    trust_code: bool = False,
    on_stage: Callable[[str], None] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Exported:
    """Write a verified bundle.

    Args:
        checkpoint: any file or folder that `load_checkpoint` reads; None takes the weights that `arch` brings.
        out: the bundle's folder. An existing bundle or empty folder is replaced; a file or another folder is an error.
        arch, num_classes, in_channels, normalization: facts that the checkpoint lacks.
        resolutions: image sizes in pixels; by default the checkpoint's own.
        formats: gradient graphs to write: ``"onnx"``, ``"compile"`` (for this kind of machine, about a minute each) and
            ``"trt"`` (for a kind of GPU; plans are built from the ONNX graphs, so those are written too). An empty
            tuple writes the forward program alone.
        objectives: objectives to differentiate, see `find_objective` in jboost.engine.method.plugins; by default
            ``joint`` where l0 is known, else ``bce``.
        dtypes: network precisions of the gradient graphs: ``"fp32"``, ``"fp16"`` or, compiled only, ``"bf16"``.
        batch_size: batch size of compiled packages and TensorRT plans; None for 32 on a CPU and 256 on a GPU.
        gpus: compute capabilities to build TensorRT plans for, like ``"sm_86"``; by default this machine's GPU.
        opset: ONNX opset; None for the default.
        real: labelled real images to compute l0 from (eq. 13); None keeps the checkpoint's l0.
        reading: how to read `real`; its channels become the model's.
        atol, rtol: largest error of a logit, largest relative error of an image's gradient; None for the dtype's own.
        device: device to compile packages for: ``"auto"`` (CUDA if available), ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.
        updates: further updates to compile steps for, see `jboost.engine.method.plugins.find_update_name`.
        trust_code: run the files that `objectives` and `updates` name, whoever wrote them.
        on_stage: called with a line of progress at each stage.
        on_progress: called with the number of finished stages and of all stages whenever one ends.

    Raises:
        BadInputError: the input, an option or the output folder cannot be used, or another process exports to it; nothing
            is written.
        FailureError: an artefact does not match the model; nothing is written.
    """
    say = on_stage or (lambda stage: None)
    check_export(
        checkpoint,
        out,
        arch=arch,
        formats=formats,
        dtypes=dtypes,
        batch_size=batch_size,
        gpus=gpus,
        resolutions=resolutions,
        device=device,
        opset=opset,
        atol=atol,
        rtol=rtol,
    )
    # The code of others first: it may fail, and before minutes of work.
    named = tuple(find_objective(name, trust_code=trust_code) for name in objectives or ())
    for update in updates:
        find_update_name(update, trust_code=trust_code)
    device = find_device(device)
    targets = find_targets(gpus, device) if "trt" in formats else ()
    built_from: tuple[str, ...] = ()
    if targets and "onnx" not in formats:
        formats += ("onnx",)
        built_from = ("trt: the ONNX graphs are written too, because plans are built from them",)
    onnx_dtypes, remarks = check_dtypes(dtypes, formats)
    if "compile" in formats:
        check_compiler(device)
    samples = None if real is None else open_samples(real, reading)
    say(f"reading {checkpoint or arch}")
    loaded = load_checkpoint(
        checkpoint, arch=arch, num_classes=num_classes, in_channels=in_channels, normalization=normalization
    )
    if real is not None and samples is not None:
        if samples.shape[3] != loaded.info.in_channels:
            samples = open_samples(real, replace(reading, channels=loaded.info.in_channels))
        remarks = (*remarks, *(f"{real}: {line}" for line in (label_line(samples), *samples.notes)))
    sizes = _resolutions(loaded, resolutions)
    loaded = check_outputs(loaded, sizes)
    l0 = loaded.info.l0
    if samples is not None:
        say(f"computing l0 over {samples.shape[0]:,} real images")
        if samples.shape[1:3] not in {(s, s) for s in sizes}:
            raise BadInputError(
                f"{real} holds {samples.shape[1]}x{samples.shape[2]} images, the bundle is for {sizes_text(sizes)}; use real "
                "images of that size, or resize them with --resize"
            )
        info = loaded.info
        l0 = mean_realness(loaded.model, samples, num_classes=info.num_classes, in_channels=info.in_channels)

    chosen = tuple(resolve_objective(name, l0) for name in dict.fromkeys(named or (None,)))
    request = ExportRequest(chosen, tuple(dict.fromkeys(dtypes)), sizes, opset, atol, rtol)

    # Imported late: torch's tracer and compiler take seconds to import, and the checks above should fail first.
    from .write import write_artefacts

    try:
        with only_writer(out):
            check_place(out)  # again: now nobody else writes it
            with replacing_folder(out, overwrite=True) as aside:
                seconds = write_artefacts(
                    aside,
                    loaded,
                    loaded.name,
                    request,
                    l0=l0,
                    formats=formats,
                    onnx_dtypes=onnx_dtypes,
                    targets=targets,
                    batch_size=batch_size,
                    device=device,
                    say=say,
                    on_progress=on_progress or (lambda done, total: None),
                )
                # Before the bundle gets its name: no bundle of the user's own is ever without trust.
                notes = _trust(Bundle(aside), out)
            bundle = Bundle(out, trust_code=True)
    except OSError as e:
        raise cannot_write(out, e) from e
    unverified = _remark_on_plans(bundle.config.artefacts.values())
    # The size that was not taken is no assumption.
    assumed = (note for note in loaded.notes if not (resolutions and note.startswith("resolution:")))
    return Exported(bundle, (*assumed, *built_from, *remarks, *unverified, *notes), seconds)


def _trust(bundle: Bundle, out: Path) -> tuple[str, ...]:
    """Record that the user made this bundle; return a remark if that fails."""
    try:
        trust_bundle(bundle, out, "exported")
    except OSError as e:
        return (
            f"the record of trusted bundles, {trust_folder()}, cannot be written ({e.strerror or e}): this bundle's code runs "
            "only with --trust-code; or set JBOOST_TRUST to a folder that can be written, and export again",
        )
    return ()


def _resolutions(loaded: LoadedCheckpoint, asked: tuple[int, ...] | None) -> tuple[int, ...]:
    if asked:
        return tuple(dict.fromkeys(asked))
    if loaded.info.resolution is None:
        raise BadInputError("the checkpoint does not store its image size; pass --resolution, e.g. --resolution 64")
    return (loaded.info.resolution,)


def _remark_on_plans(artefacts: Iterable[Artefact]) -> tuple[str, ...]:
    count = sum(a.unverified is not None for a in artefacts)
    if not count:
        return ()
    return (f"{count} TensorRT plans were built without their GPU and not run; each is checked whenever it is opened",)
