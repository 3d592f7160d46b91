"""Extractors that torch runs: Inception, TorchScript, torch.export programs, a user's factory, a bundle's own model."""

from __future__ import annotations

import hashlib
import inspect
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from jboost.engine.backends.program import load_forward, load_program
from jboost.engine.backends.torch_device import find_device
from jboost.engine.bundle import sha256_file
from jboost.engine.errors import BadInputError, first_line
from jboost.opening import open_bundle
from jboost.trainer.factories import current_directory_on_path, find_factory

from .base import Extractor, Identity, Numpy, Outputs, fix_batch, read_outputs
from .inception import PUBLISHED, load_inception


class TorchExtractor:
    """Calls `network` with float32 [B, C, H, W] in [0, `full`].

    Args:
        network: returns what `read_outputs` reads.
        identity: the extractor's identity.
        device: a torch device.
        full: the value of white.
    """

    def __init__(self, network: Callable[[torch.Tensor], Any], identity: Identity, device: str, full: float = 1.0):
        self.identity = identity
        self._network, self._device, self._full = network, device, full

    def __call__(self, images: Numpy) -> Outputs:
        """Features of `images` uint8 [B, H, W, C]."""
        x = torch.from_numpy(images).to(self._device).permute(0, 3, 1, 2).float() / (255 / self._full)
        # float32 means float32: TF32 would make a FID depend on the kind of GPU.
        exact = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
        try:
            with torch.no_grad(), exact:
                raw = self._network(x)
        except torch.cuda.OutOfMemoryError as e:
            raise BadInputError(f"the GPU has no room for {len(images)} images at a time; lower -b") from e
        except Exception as e:  # a network raises whatever its operators do
            raise BadInputError(
                f"the extractor {self.identity.source} failed on images {list(x.shape)} ({type(e).__name__}: {first_line(e)}); "
                "give it images of the size and channels that it was made for"
            ) from e
        return read_outputs(raw, self.identity, len(images))


def open_file(path: Path, device: str, trust_code: bool, full: float = 1.0, *, tensorflow: bool = True) -> Extractor:
    """Open Inception's weights, a TorchScript file or a torch.export program, whichever the file contains.

    `tensorflow` concerns Inception's weights alone: see `jboost.evaluation.extractors.inception.prepare`.

    Raises:
        BadInputError: the file is none of these, or it is code and `trust_code` is false.
    """
    device = find_device(device)
    names = _members(path)
    sha = sha256_file(path)
    if any("/code/" in name or "/models/" in name for name in names) and not trust_code:
        raise BadInputError(
            f"--features {path} is a program, which runs as code; if you trust its author, add --trust-code, or give an .onnx file"
        )
    if any("/code/" in name for name in names):
        identity = Identity("TorchScript", "torchscript", str(path), sha, input_max=full)
        return TorchExtractor(_load_script(path, device), identity, device, full)
    if any("/models/" in name for name in names):
        identity = Identity("torch.export program", "program", str(path), sha, input_max=full)
        program = load_program(path, device)
        return fix_batch(TorchExtractor(program, identity, device, full), _batch_of(program))
    network = load_inception(path, tensorflow).to(device)
    published = sha.startswith(PUBLISHED)
    remark = None if published else f"these are not the published weights, whose SHA-256 begins with {PUBLISHED}"
    return TorchExtractor(
        network,
        Identity("Inception (2015-12-05)", "inception", str(path), sha, remark, input_max=255.0),
        device,
        full=255.0,
    )


def open_bundle_model(folder: Path, spec: str, device: str, trust_code: bool) -> Extractor:
    """Open a bundle's joint model; its logits are the features.

    Raises:
        BadInputError: the folder is not a bundle, the bundle is damaged, or its code is not trusted and needed.
    """
    device = find_device(device)
    bundle = open_bundle(folder, trust_code=trust_code)
    remark, file = "this extractor is a joint model: a model must not judge what it boosted", "forward"
    if not bundle.trusted and bundle.rebuild is not None:
        remark += f"; it is built from its weights: its forward.pt2 is code ({bundle.how_to_trust()})"
        file = "weights"
    identity = Identity(
        f"bundle's model ({bundle.config.architecture})", "bundle", spec, bundle.artefact(file).sha256, remark
    )
    network = load_forward(bundle, device)
    return TorchExtractor(lambda x: {"logits": network(x)}, identity, device)


def open_factory(spec: str, device: str, full: float = 1.0) -> Extractor:
    """Call ``package.module:factory`` without arguments; it returns a network, or any function of a tensor.

    Raises:
        BadInputError: the factory is not found, fails, or returns something that cannot be called.
    """
    device = find_device(device)
    module_name, _, attribute = spec.partition(":")
    if not all(part.isidentifier() for part in (*module_name.split("."), attribute)):
        raise BadInputError(
            f"cannot read --features {spec!r}; write a factory as package.module:factory, or an existing file"
        )
    with current_directory_on_path():
        factory = find_factory(module_name, attribute)
        try:
            network = factory()
        except Exception as e:
            raise BadInputError(f"{spec} called without arguments failed ({type(e).__name__}: {first_line(e)})") from e
    if not callable(network):
        raise BadInputError(f"{spec} returned {type(network).__name__}, which cannot be called with images")
    identity = Identity(spec, "factory", spec, _digest_of_code(module_name, network), input_max=full)
    if isinstance(network, torch.nn.Module):
        network = network.to(device).eval().requires_grad_(False)
    return TorchExtractor(network, identity, device, full)


def _digest_of_code(module_name: str, network: Any) -> str:
    """SHA-256 of the factory's module and, for a network, of its parameters: changes of either may change features."""
    digest = hashlib.sha256()
    file = inspect.getsourcefile(sys.modules[module_name])
    if file is not None:
        digest.update(Path(file).read_bytes())
    if isinstance(network, torch.nn.Module):
        for name, tensor in sorted(network.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _batch_of(program: torch.nn.Module) -> int | None:
    """The batch size that a program was exported for; None if it takes any."""
    for node in getattr(program, "graph", torch.fx.Graph()).nodes:
        if node.op == "placeholder" and isinstance(node.meta.get("val"), torch.Tensor):
            size = node.meta["val"].shape[0]
            return size if isinstance(size, int) else None
    return None


def _members(path: Path) -> list[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except (zipfile.BadZipFile, OSError):
        return []  # torch's older format for weights


def _load_script(path: Path, device: str) -> torch.nn.Module:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # TorchScript is deprecated, but files in use have it
            script: torch.nn.Module = torch.jit.load(str(path), map_location=device)  # type: ignore[no-untyped-call]
    except (RuntimeError, ValueError) as e:
        raise BadInputError(
            f"--features {path} is not a readable TorchScript file ({first_line(e)}); save it again"
        ) from e
    return script.eval()
