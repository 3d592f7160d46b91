"""Networks of timm's and torchvision's registries, and of the Hugging Face Hub, by name.

The packages are imported when a network is asked for. Only names of their registries reach them, so a name never chooses
other code.
"""

from __future__ import annotations

import difflib
import importlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from jboost.engine.errors import BadInputError, one_line
from jboost.engine.system.typed import LARGEST_FIGURE

_NAME = re.compile(r"[A-Za-z0-9_]{1,200}(\.[A-Za-z0-9_-]{1,200})?")
_REPOSITORY = re.compile(r"[A-Za-z0-9_.-]{1,100}/[A-Za-z0-9_.-]{1,100}(@[A-Za-z0-9_./-]{1,200})?")
# Arguments of timm.create_model that load files: a config.json must not choose these.
_NOT_FROM_FILES = frozenset(
    {"pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir", "model_name"}
)
_LARGEST_ARGUMENT = 4096
_HUB_FILES = ("config.json", "preprocessor_config.json", "model.safetensors")
_OLD_WEIGHTS = "pytorch_model.bin"


@dataclass(frozen=True)
class Usual:
    """What a package says of a network: normalisation for images in [0, 1], image size, and who says so."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    resolution: int | None
    source: str


def package(name: str) -> Any:
    """Import ``timm`` or ``torchvision``.

    Raises:
        BadInputError: it is not installed, or it does not import beside this torch.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or name
        raise BadInputError(f"{missing} is not installed; install it with: pip install {missing}") from error
    except Exception as error:  # a build for another torch fails with RuntimeError or OSError
        import torch

        index = " --index-url https://download.pytorch.org/whl/cpu" if torch.__version__.endswith("+cpu") else ""
        raise BadInputError(
            f"{name} does not import beside torch {torch.__version__} ({type(error).__name__}: {one_line(error)}); torch and "
            f"torchvision must come from one index: pip install --force-reinstall torch torchvision{index}"
        ) from error


def knows(name: str, package_name: str) -> bool:
    """Whether the registry of ``timm`` or ``torchvision`` has `name`; False where the package cannot be imported."""
    if not _NAME.fullmatch(name):
        return False
    try:
        found = package(package_name)
    except BadInputError:
        return False
    return bool(found.is_model(name)) if package_name == "timm" else name.lower() in found.models.list_models()


def timm_network(
    name: str, num_classes: int | None, in_channels: int | None, arguments: Mapping[str, Any]
) -> nn.Module:
    """Build a network of timm, with random weights.

    Raises:
        BadInputError: timm is missing, does not know the name, or refuses the arguments.
    """
    timm = _checked("timm", name, lambda timm: timm.is_model(name), lambda timm: timm.list_models())
    if loading := _NOT_FROM_FILES & arguments.keys():
        raise BadInputError(
            f"model_args of config.json hold {', '.join(sorted(loading))}, which load other files; write a factory and pass --arch "
            "file.py:factory"
        )
    if odd := sorted(key for key, value in arguments.items() if not _is_plain(value)):
        raise BadInputError(
            f"model_args of config.json hold {', '.join(odd)} with values that no network of timm's needs; write a factory and "
            "pass --arch file.py:factory"
        )
    given = {"num_classes": num_classes, "in_chans": in_channels}
    given = {key: value for key, value in given.items() if value is not None}
    return _built(f"timm:{name}", lambda: timm.create_model(name, pretrained=False, **{**arguments, **given}), given)


def torchvision_network(name: str, num_classes: int | None) -> nn.Module:
    """Build a network of torchvision, with random weights.

    Raises:
        BadInputError: torchvision is missing, does not import, or does not know the name.
    """
    vision = _checked(
        "torchvision", name, lambda v: name in v.models.list_models(), lambda v: v.models.list_models(module=v.models)
    )
    given = {} if num_classes is None else {"num_classes": num_classes}
    return _built(f"torchvision:{name}", lambda: vision.models.get_model(name, weights=None, **given), given)


def usual_of_torchvision(name: str) -> Usual | None:
    """The normalisation of torchvision's published weights for a network; None if it has none."""
    try:
        weights = package("torchvision").models.get_model_weights(name).DEFAULT
        evaluation = weights.transforms()
        size = evaluation.crop_size
        mean, std = tuple(map(float, evaluation.mean)), tuple(map(float, evaluation.std))
    except (AttributeError, TypeError, ValueError):
        return None
    size = size[0] if isinstance(size, list | tuple) and len(set(size)) == 1 else None
    return Usual(mean, std, size, f"torchvision's {weights}")


def usual_of_timm(network: nn.Module) -> Usual | None:
    """What timm's ``pretrained_cfg`` (or ``default_cfg``) says of a network; None if the network has none."""
    for entry in ("pretrained_cfg", "default_cfg"):
        cfg = getattr(network, entry, None)
        cfg = cfg if isinstance(cfg, Mapping) else getattr(cfg, "__dict__", None)
        if cfg and (found := usual_of(cfg, f"timm's {entry}")) is not None:
            return found
    return None


def usual_of(cfg: Mapping[str, Any], source: str) -> Usual | None:
    """`Usual` of a mapping with timm's entries ``mean``, ``std`` and ``input_size``; None without the first two."""
    mean, std, size = _numbers(cfg.get("mean")), _numbers(cfg.get("std")), cfg.get("input_size")
    if mean is None or std is None or len(mean) != len(std):
        return None
    resolution = None
    if isinstance(size, list | tuple) and len(size) == 3 and size[1] == size[2] and type(size[1]) is int:
        resolution = size[1] if 0 < size[1] < 1 << 16 else None
    return Usual(mean, std, resolution, source)


def hub_repository(name: str) -> str | None:
    """The repository of the Hub that holds the weights of ``timm:NAME[.tag]``; None if there is none."""
    timm = _checked("timm", name, lambda timm: timm.is_model(name), lambda timm: timm.list_models())
    try:
        cfg = timm.get_pretrained_cfg(name)
    except Exception as error:
        raise BadInputError(f"timm has no weights {name} ({one_line(error)}); pass --ckpt") from error
    repository = getattr(cfg, "hf_hub_id", None)
    return repository if isinstance(repository, str) and _REPOSITORY.fullmatch(repository) else None


def hub_folder(repository: str, *, weights: bool = True) -> Path:
    """A folder with a repository's configuration and, if wanted, its weights: from the local cache, else from the Hub.

    Raises:
        BadInputError: the name is no ``org/name[@revision]``, huggingface_hub is missing, or the files are not found.
    """
    if not _REPOSITORY.fullmatch(repository) or ".." in repository:
        raise BadInputError(
            f"cannot read the repository {repository!r}; write it as hf-hub:ORG/NAME or hf-hub:ORG/NAME@REVISION"
        )
    repo, _, revision = repository.partition("@")
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise BadInputError('huggingface_hub is not installed; install it with: pip install "jboost[hub]"') from error

    def complete(folder: Path) -> bool:
        held = any((folder / name).is_file() for name in (_HUB_FILES[-1], _OLD_WEIGHTS))
        return (folder / "config.json").is_file() and (held or not weights)

    files = [*_HUB_FILES] if weights else [*_HUB_FILES[:-1]]
    attempts = [(files, True), (files, False), ([*files, _OLD_WEIGHTS], False)]
    problem = "it holds no config.json and model.safetensors or pytorch_model.bin"
    for patterns, local in attempts:
        try:
            found = snapshot_download(repo, revision=revision or None, allow_patterns=patterns, local_files_only=local)
        except Exception as error:  # missing, private, or no network: huggingface_hub has a class for each
            problem = f"{type(error).__name__}: {one_line(error)}"
            continue
        if complete(Path(found)):
            return Path(found)
    raise BadInputError(
        f"{repo} is neither in the local cache nor readable from the Hub ({problem[:300]}); check the name and the network, or "
        f"download it elsewhere and pass its folder to --ckpt"
    )


def _checked(package_name: str, name: str, known: Any, listed: Any) -> Any:
    """The package, once its registry is known to have `name`."""
    if not _NAME.fullmatch(name):
        raise BadInputError(f"cannot read {package_name}:{name}; write it as {package_name}:NAME")
    found = package(package_name)
    if not known(found):
        near = difflib.get_close_matches(name, listed(found), 3)
        raise BadInputError(
            f"{package_name} {found.__version__} has no network {name!r}"
            + (f"; did you mean {', '.join(near)}?" if near else f"; list them with {package_name}'s list_models()")
        )
    return found


def _built(what: str, build: Any, given: Mapping[str, Any]) -> nn.Module:
    try:
        network = build()
    except Exception as error:
        call = ", ".join(f"{key}={value}" for key, value in given.items())
        raise BadInputError(f"{what} built with ({call}) failed: {type(error).__name__}: {one_line(error)}") from error
    assert isinstance(network, nn.Module)
    return network


def _is_plain(value: Any) -> bool:
    """Whether a constructor's argument from a file is a name, a flag or a size that a machine can build."""
    if isinstance(value, list):
        return len(value) <= 64 and all(_is_plain(v) and not isinstance(v, list) for v in value)
    if isinstance(value, str):
        return len(value) <= 100
    return value is None or (isinstance(value, int | float) and abs(value) <= _LARGEST_ARGUMENT)


def _numbers(values: Any) -> tuple[float, ...] | None:
    """A list of up to 16 numbers; None for anything else."""
    if not isinstance(values, list | tuple) or not 1 <= len(values) <= 16:
        return None
    plain = all(isinstance(v, int | float) and not isinstance(v, bool) and abs(v) < LARGEST_FIGURE for v in values)
    return tuple(map(float, values)) if plain else None
