"""Build a bundle's network from its configuration and its weights, which are data, without its forward program, which is code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jboost.engine.bundle import Bundle, BundleConfig
from jboost.engine.errors import BadInputError


def rebuilder(config: BundleConfig) -> Callable[[Bundle], Any] | None:
    """`rebuild` for an architecture that jboost defines; None for a factory: a bundle must not choose what is imported.

    It imports torch only when the network is built.
    """
    return None if ":" in config.architecture else rebuild


def rebuild(bundle: Bundle) -> Any:
    """Build a bundle's network from ``model.safetensors``.

    Returns:
        A `jboost.trainer.joint.JointModel` in evaluation mode, on the CPU: float32 [B, C, H, W] in [0, 1] -> logits [B,
        num_classes].

    Raises:
        BadInputError: the file is missing or changed, or it does not hold the weights of the configuration's architecture.
    """
    import torch

    from jboost.trainer.architectures import build_network, find_architecture
    from jboost.trainer.checkpoint import read_safetensors
    from jboost.trainer.joint import JointModel

    config, path = bundle.config, bundle.checked_path("weights")
    if not find_architecture(config.architecture).builtin:
        raise BadInputError(f"jboost does not define the architecture {config.architecture}; {bundle.how_to_trust()}")
    tensors, _ = read_safetensors(path)
    with torch.device("meta"):
        network = build_network(config.architecture, config.num_classes, config.in_channels)
    model = JointModel(network, config.mean, config.std)
    wanted = {name: (tuple(t.shape), t.dtype) for name, t in model.state_dict().items()}
    if wanted != {name: (tuple(t.shape), t.dtype) for name, t in tensors.items()}:
        raise BadInputError(
            f"{path} does not hold the float32 weights of {config.architecture} with {config.num_classes} classes; export the "
            "bundle again"
        )
    if not all(torch.equal(tensors[name], getattr(model, name)) for name in ("mean", "std")):
        raise BadInputError(f"{path} and config.json give different normalisations; export the bundle again")
    model.load_state_dict(tensors, assign=True)
    return model.eval().requires_grad_(False)
