"""The bundle: the folder that `jboost export` writes and every engine loads.

It follows the Hub's convention, ``config.json`` beside ``model.safetensors``. The configuration is also a manifest: it
lists every file with its SHA-256 and contains a digest of itself, so one flipped byte anywhere is detected.

Nothing in it says who wrote it. Some of its files are code: the forward program, compiled packages and TensorRT plans.
They open only if the user exported the bundle, ran `jboost trust` on it, or passed ``--trust-code``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .errors import BadInputError, one_line
from .manifest import SIZE_LIMIT, check_manifest
from .system.commands import in_shell
from .system.trust import is_trusted, remember
from .system.typed import as_mapping, check_keys, load_json

#: The schema version; increased when a reader of version N would misread the files of version N+1.
SCHEMA = 2
CONFIG = "config.json"


@dataclass(frozen=True)
class Artefact:
    """One file of a bundle.

    Attributes:
        file: path inside the bundle, with forward slashes.
        sha256: hash of the contents, hex.
        size: in bytes.
        dtype: the network's dtype, "fp32", "fp16" or "bf16".
        batch_size: the fixed batch size; None if any batch size works.
        objective: the objective of a gradient graph; None for a forward pass.
        resolution: the fixed image size; None if all of the bundle's image sizes work.
        opset: ONNX opset, for ONNX files.
        target: what a compiled file is tied to (device kind, instruction set, torch version); None if it runs anywhere.
        errors: figures of the verification against eager autograd, by name.
        unverified: why a graph could not be run on the exporting machine; None for every other file.
    """

    file: str
    sha256: str
    size: int
    dtype: str = "fp32"
    batch_size: int | None = None
    objective: str | None = None
    resolution: int | None = None
    opset: int | None = None
    target: str | None = None
    errors: dict[str, float] = field(default_factory=dict)
    unverified: str | None = None


@dataclass(frozen=True)
class Timing:
    """The time of a step when the bundle was exported; it guides ``--engine auto`` on the same machine.

    Attributes:
        machine: the machine's name, see `jboost.engine.system.machine.machine_name`.
        engine, dtype, resolution: what was timed.
        batch_size: images per call.
        ms: milliseconds per image-step, the median of alternating turns.
    """

    machine: str
    engine: str
    dtype: str
    resolution: int
    batch_size: int
    ms: float


@dataclass(frozen=True)
class BundleConfig:
    """The contents of ``config.json``.

    Attributes:
        architecture: name of the architecture or ``package.module:factory``.
        num_classes, in_channels: the number of classes and of input channels.
        resolutions: image sizes (pixels, square) that the graphs were verified for.
        mean, std: normalisation inside the model, one value per channel; the input is in [0, 1].
        l0: mean realness of real images (eq. 13), if known.
        class_names: one name per class, if known.
        source: file name and sha256 of the checkpoint.
        versions: versions of jboost, torch, ... at export.
        artefacts: the bundle's files by name ("weights", "forward", ...).
        timings: the engines' times on the exporting machine.
        schema: the schema version.
    """

    architecture: str
    num_classes: int
    in_channels: int
    resolutions: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    l0: float | None
    class_names: tuple[str, ...] | None
    source: dict[str, str]
    versions: dict[str, str]
    artefacts: dict[str, Artefact]
    timings: tuple[Timing, ...] = ()
    schema: int = SCHEMA

    def to_json(self) -> str:
        """The text of ``config.json``, digest included."""
        content = asdict(self)
        return json.dumps(content | {"digest": _digest(content)}, indent=2) + "\n"


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's contents, hex."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def artefact_of(folder: Path, file: str, **facts: Any) -> Artefact:
    """The manifest's entry for a file just written into `folder`; `facts` are `Artefact`'s other fields."""
    path = folder / file
    return Artefact(file=file, sha256=sha256_file(path), size=path.stat().st_size, **facts)


def is_data(name: str) -> bool:
    """Whether the artefact called `name` in a manifest is data, which may come from anyone.

    The name decides, because it decides what opens the file. Everything that this does not list counts as code.
    """
    return name == "weights" or name.startswith("onnx/")


class Bundle:
    """An opened bundle.

    Attributes:
        trusted: whether its code may run.
        digest: hash of its manifest, and so of all of its files.
        rebuild: builds its network from its weights alone; None if that cannot be done.

    Args:
        path: the bundle's folder.
        trust_code: run its code, whoever made it.
        rebuild: makes `rebuild` for a configuration, see `jboost.opening.open_bundle`; None: the network cannot be rebuilt.
        origin: where the folder was downloaded from, as the user names it: its code may have been left there.

    Raises:
        BadInputError: the folder is no bundle, it has another schema version, or its configuration was changed after
            export.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        trust_code: bool = False,
        rebuild: Callable[[BundleConfig], Callable[[Bundle], Any] | None] | None = None,
        origin: str | None = None,
    ):
        self.path, self.origin = Path(path), origin
        self.config, self.digest = _read_config(self.path)
        self.trusted = trust_code or is_trusted("bundle", self.digest)
        self.rebuild = None if rebuild is None else rebuild(self.config)

    def artefact(self, name: str) -> Artefact:
        """The entry called `name`.

        Raises:
            BadInputError: the bundle has no such entry.
        """
        if name not in self.config.artefacts:
            has = ", ".join(self.config.artefacts)
            raise BadInputError(
                f"bundle {self.path} has no {name!r} (it has {has}); export it again with everything you need"
            )
        return self.config.artefacts[name]

    def why_untrusted(self, name: str) -> str | None:
        """Why the artefact called `name` must not be opened, with what to type; None if it may be."""
        if self.trusted or is_data(name):
            return None
        return f"bundle {self.path} holds code that you have not trusted ({self.artefact(name).file}); {self.how_to_trust()}"

    def how_to_trust(self) -> str:
        """What to type to run the bundle's code."""
        return (
            f"if you trust its author: jboost trust {in_shell(self.origin or self.path)}, or --trust-code for one run"
        )

    def code(self) -> list[Artefact]:
        """The entries that are code, by file name."""
        found = {artefact.file: artefact for name, artefact in self.config.artefacts.items() if not is_data(name)}
        return [found[file] for file in sorted(found)]

    def checked_path(self, name: str) -> Path:
        """Path of an artefact after checking that it may be opened and that its contents match the manifest.

        Whoever opens a file of a bundle gets its path here, so that no engine can run code that is not trusted.

        Raises:
            BadInputError: the file is code that is not trusted, it is missing, or its hash differs.
        """
        why = self.why_untrusted(name)
        if why is not None:
            raise BadInputError(why)
        return self._matching_path(name)

    def _matching_path(self, name: str) -> Path:
        artefact = self.artefact(name)
        path = self.path / artefact.file
        if not path.is_file():
            self.check_unreplaced()
            remedy = "export it again" if self.origin is None else f"ask the author of {self.origin} to upload it again"
            raise BadInputError(f"bundle {self.path} is incomplete: {artefact.file} is missing; {remedy}")
        try:
            intact = path.stat().st_size == artefact.size and sha256_file(path) == artefact.sha256
        except FileNotFoundError:  # replaced in this moment
            intact = False
        if not intact:
            self.check_unreplaced()
            raise BadInputError(
                f"{path} is not the exported file (its SHA-256 differs from the one in {CONFIG}); "
                "copy the bundle again or export it again"
            )
        return path

    def check_unreplaced(self) -> None:
        """Check that the folder still holds the bundle that was opened.

        Raises:
            BadInputError: another export has replaced it, or it is gone.
        """
        if _read_config(self.path)[1] != self.digest:
            raise BadInputError(f"bundle {self.path} was replaced while it was being read; run the command again")

    def check(self) -> None:
        """Compare every file with its hash, which opens none of them. Code that was not downloaded is passed over.

        Raises:
            BadInputError: a file is missing or differs; the first one is named.
        """
        for name, artefact in self.config.artefacts.items():
            left_there = self.origin is not None and self.why_untrusted(name) is not None
            if not (left_there and not (self.path / artefact.file).exists()):
                self._matching_path(name)


def trust_bundle(bundle: Bundle, path: Path, how: str) -> None:
    """Record that the user trusts a bundle: its digest, with its place and how it came to be trusted as a note.

    Raises:
        OSError: the record cannot be written.
    """
    trust_key("bundle", bundle.digest, path, how)


def trust_key(kind: str, key: str, path: Path, how: str) -> None:
    """Record that the user trusts what `key` of a `kind` stands for; see `jboost.engine.system.trust.remember`.

    Raises:
        OSError: the record cannot be written.
    """
    when = datetime.now(UTC).isoformat(timespec="seconds")
    remember(kind, key, {"path": str(path.resolve()), "how": how, "when": when})


def is_bundle(path: Path) -> bool:
    """Whether `path` looks like a bundle's folder, whole or damaged; a model's folder of the Hub has another ``config.json``."""
    file = path / CONFIG
    if not file.is_file():
        return False
    try:
        if file.stat().st_size > SIZE_LIMIT:
            return True
        found = load_json(file.read_bytes())
    except (BadInputError, OSError):
        return True  # damaged: nothing says that it is somebody else's
    return isinstance(found, dict) and "artefacts" in found


def _read_config(path: Path) -> tuple[BundleConfig, str]:
    """The configuration in a bundle's folder, and its digest."""
    file = path / CONFIG
    if not file.is_file():
        if path.exists():
            raise BadInputError(
                f"{path} is not a bundle (it has no {CONFIG}); name another folder, or make a bundle with: "
                "jboost export --ckpt FILE -o bundle"
            )
        raise BadInputError(f"{path} does not exist; make one with: jboost export --ckpt FILE -o {in_shell(path)}")
    try:
        if file.stat().st_size > SIZE_LIMIT:
            raise BadInputError(f"it has more than {SIZE_LIMIT:,} bytes")
        content = as_mapping(load_json(file.read_text(encoding="utf-8")), "it")
        check_keys(content, ("digest", "schema"), None)
        digest = content.pop("digest")
        schema = content["schema"]
    except (OSError, ValueError) as e:
        raise BadInputError(f"{file} is not a jboost bundle's configuration ({one_line(e)}); export it again") from e
    if schema != SCHEMA:
        raise BadInputError(
            f"{file} has schema version {repr(schema)[:20]}, this jboost reads {SCHEMA}; export the bundle again with this version"
        )
    if digest != _digest(content):
        raise BadInputError(
            f"{file} was changed after export (its digest differs); export it again (to run with another l0, pass --l0)"
        )
    try:
        check_manifest(content)
    except BadInputError as e:
        raise BadInputError(f"{file} is not what jboost writes: {e}; do not use this bundle, or export it again") from e
    config = BundleConfig(**{f.name: content[f.name] for f in fields(BundleConfig)})
    artefacts = {name: Artefact(**entry) for name, entry in content["artefacts"].items()}
    timings = tuple(Timing(**entry) for entry in content["timings"])
    names = config.class_names
    config = replace(
        config,
        resolutions=tuple(config.resolutions),
        mean=tuple(config.mean),
        std=tuple(config.std),
        class_names=None if names is None else tuple(names),
        artefacts=artefacts,
        timings=timings,
    )
    return config, str(digest)
