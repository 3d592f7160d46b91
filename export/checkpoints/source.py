"""Where a network's weights are: a file, a folder of timm's or Hugging Face's, the Hub, or an instance of the user's."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import save

from jboost.engine.errors import BadInputError
from jboost.export.request import check_checkpoint, no_weights
from jboost.trainer.architectures import Architecture, described_architecture, find_architecture
from jboost.trainer.factories import is_instance
from jboost.trainer.folder import FolderFacts, read_folder
from jboost.trainer.registries import hub_folder, hub_repository

from .read import Content, read_weights

_WEIGHTS = ("model.safetensors", "pytorch_model.bin")


@dataclass(frozen=True)
class Source:
    """What was given: the weights, and what is said of them.

    Attributes:
        path: the file; where the weights are an instance's, what was passed to ``--arch``.
        content: its weights, and what it says of them.
        sha256: hash of the file, or of the instance's weights, in hexadecimal.
        facts: what stands beside the file.
        asked: the architecture that the user named; None leaves it to the rest.
    """

    path: Path
    content: Content
    sha256: str
    facts: FolderFacts
    asked: Architecture | None


def open_source(path: Path | None, arch: str | None) -> Source:
    """Find and read the weights.

    Args:
        path: a file, or a folder that holds ``model.safetensors`` or ``pytorch_model.bin``. None takes the weights that
            `arch` has: ``hf-hub:ORG/NAME`` and ``timm:NAME.TAG`` from the Hub or its local cache, or an instance's own.
        arch: see `find_architecture`; None leaves the architecture to the weights.

    Raises:
        BadInputError: there are no such weights, or they cannot be read.
    """
    if path is None:
        return _without_file(arch)
    asked = None if arch is None else find_architecture(arch)
    if path.is_dir():
        path = _weights_in(path)
    sha256 = _sha256(path)
    facts = read_folder(path.parent)
    return Source(path, read_weights(path), sha256, facts, asked)


def _without_file(arch: str | None) -> Source:
    scheme, _, rest = (arch or "").partition(":")
    if arch is not None and scheme in ("hf-hub", "timm"):
        repository = rest if scheme == "hf-hub" else hub_repository(rest)
        if repository is not None:
            folder = hub_folder(repository)
            facts = read_folder(folder)
            asked = described_architecture(facts, arch) if scheme == "hf-hub" else find_architecture(arch)
            file = _weights_in(folder)
            return Source(Path(arch), read_weights(file), _sha256(file), facts, asked)
    if arch is not None and ":" in arch and scheme not in ("hf-hub", "timm", "torchvision") and is_instance(arch):
        asked = find_architecture(arch)
        state = {name: t.detach().clone().contiguous() for name, t in asked.build(None, None).state_dict().items()}
        notes = ("weights: those of the instance",)
        return Source(
            Path(asked.name), Content(state, notes=notes), hashlib.sha256(save(state)).hexdigest(), FolderFacts(), asked
        )
    raise no_weights()


def named_architecture(facts: FolderFacts, path: Path, inferred: str | None) -> Architecture | None:
    """The architecture that timm's ``config.json`` names: ours if the weights are recognised as just that, else timm's.

    Raises:
        BadInputError: timm is needed and missing.
    """
    if facts.architecture is None:
        return None
    usual = {"global_pool": "avg"}  # timm writes this of every ResNet
    if inferred is not None and facts.architecture.partition(".")[0] == inferred and facts.arguments in ({}, usual):
        return find_architecture(inferred)
    return described_architecture(facts, str(path))


def _weights_in(folder: Path) -> Path:
    for name in _WEIGHTS:
        if (folder / name).is_file():
            return folder / name
    sharded = next((n for n in _WEIGHTS if (folder / f"{n}.index.json").is_file()), None)
    if sharded is not None:
        raise BadInputError(
            f"{folder} holds weights in several files ({sharded}.index.json); save the model in one file"
        )
    raise BadInputError(f"{folder} is a folder without {' or '.join(_WEIGHTS)}; give the checkpoint file in it")


def _sha256(path: Path) -> str:
    """Hash a file, which must exist and not be empty."""
    check_checkpoint(path)
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BadInputError(f"cannot read {path}: {error.strerror}; check its permissions") from error
