"""The model card of a bundle: what it is, how to use it, and the figures of its verification."""

from __future__ import annotations

import re

from jboost.engine.bundle import Artefact, BundleConfig

CARD = "README.md"

_FRONT = """---
{license}library_name: jboost
tags:
- jboost
- adversarial-robustness
- image-generation
---
"""
_BODY = """
# {title}

A jboost bundle: a robust joint classifier-discriminator with verified gradient graphs. Gradient steps through it make generated
images look more real.

    pip install "jboost[hub]"
    jboost boost samples.npz --bundle hf://{repo}

```python
import jboost

better = jboost.boost(images, labels, bundle="hf://{repo}")
```

This downloads and runs data alone: weights and ONNX graphs. `--trust-code` also downloads and runs the forward program and
compiled packages; use it only if you trust the author.

| | |
|---|---|
| architecture | {architecture} |
| classes | {classes} |
| input | {sizes}, {channels} channel(s), in [0, 1] |
| normalisation inside | mean {mean}, std {std} |
| l0 (mean realness of real images) | {l0} |
| source checkpoint | {source} |
| SHA-256 of the source | `{sha256}` |
| versions at export | {versions} |

## Verification

The export reloads each graph and compares it with autograd in float64 on images that it was not traced with. Errors are the worst
over those images: of a gradient, relative to its L2 norm; of a logit, relative to the spread of its image's logits.

| file | precision | gradient error | logit error |
|---|---|---|---|
{rows}

`jboost verify` repeats this on your machine.

## Licence

{rights}
"""
_UNSTATED = (
    "The uploader has not stated one. Set `license:` at the top of this file, or export again with `--license`. The licence of the "
    "source checkpoint and of its training data applies."
)


def model_card(config: BundleConfig, repo: str, license: str | None) -> str:
    """The text of a bundle's model card.

    Args:
        config: the bundle's configuration.
        repo: ``user/repo``.
        license: the licence's identifier on the Hub; None: not stated.
    """
    rows = [row for artefact in _graphs(config) if (row := _row(artefact))]
    return _FRONT.format(license=f"license: {license}\n" if license else "") + _BODY.format(
        repo=repo,
        title=repo.split("/")[-1],
        architecture=_code(config.architecture),
        classes=f"{config.num_classes:,}",
        sizes=", ".join(f"{size}x{size}" for size in config.resolutions),
        channels=config.in_channels,
        mean=_numbers(config.mean),
        std=_numbers(config.std),
        l0="unknown" if config.l0 is None else f"{config.l0:.4f}",
        source=_code(config.source["file"]),
        sha256=config.source["sha256"],
        versions=", ".join(f"{name} {version}" for name, version in config.versions.items()),
        rows="\n".join(rows),
        rights=_UNSTATED if license is None else f"`{license}`, as the uploader states.",
    )


def _graphs(config: BundleConfig) -> list[Artefact]:
    return list({artefact.file: artefact for artefact in config.artefacts.values()}.values())


def _row(artefact: Artefact) -> str | None:
    """A graph's row; None for a file without figures."""
    figures = [artefact.errors.get(key) for key in ("grad_worst", "logits_worst")]
    if artefact.unverified is not None:
        return f"| {_code(artefact.file)} | {artefact.dtype} | not run yet | not run yet |"
    if figures == [None, None]:
        return None
    shown = ("" if figure is None else f"{figure:.1e}" for figure in figures)
    return f"| {_code(artefact.file)} | {artefact.dtype} | {' | '.join(shown)} |"


def _code(text: str) -> str:
    """A name as code in a table: nothing in it ends the cell or the code."""
    return f"`{re.sub(r'[`|]', '_', ' '.join(text.split()))}`"


def _numbers(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:g}" for value in values)
