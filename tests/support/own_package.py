"""A small installed distribution and files with objectives and updates of a user's own."""

from __future__ import annotations

from pathlib import Path

#: 2 f_c - logsumexp, to be raised: the log odds of the class, less f_c once more.
MARGIN = '''"""A user's losses."""
import torch


def margin(logits, labels, l0):
    f_c = logits.gather(1, labels[:, None])[:, 0]
    return torch.logsumexp(logits, 1) - 2 * f_c
'''

HINGE = """import torch
from helper import SLOPE


def hinge(logits, labels, l0):
    f_c = logits.gather(1, labels[:, None])[:, 0]
    return SLOPE * torch.relu(l0 + 4 - f_c)


def mean(logits, labels, l0):
    return hinge(logits, labels, l0).mean()


def centred(logits, labels, l0):
    loss = hinge(logits, labels, l0)
    return loss - loss.mean().detach()


def normed(logits, labels, l0):
    loss = hinge(logits, labels, l0)
    return loss / loss.norm()


def nan(logits, labels, l0):
    return (logits * 0).log().sum(1)


def constant(logits, labels, l0):
    return torch.ones(len(logits))


def random(logits, labels, l0):
    return logits.sum(1) * torch.rand(len(logits))


def wide(logits, labels, l0):
    return logits - l0


def broken(logits, labels, l0):
    return logits.nowhere()


number = 3
"""

UPDATE = '''"""A user's update."""
from dataclasses import dataclass
from typing import Annotated, ClassVar

from jboost.engine.method.arrays import namespace
from jboost.engine.method.updates import Option, Update, register


def descend(x, x0, grad, index, step, how):
    return x - how.step_size * namespace(x, grad).sign(grad)


@register("sign")
@dataclass(frozen=True)
class SignDescent(Update):
    """x <- x - step_size * sign(grad)."""

    steps: Annotated[int, Option("maximum number of steps per image", least=0)] = 15
    step_size: Annotated[float, Option("change of a pixel in a step", least=0, exclusive=True)] = 0.01
    reach: Annotated[float, Option("not used", least=0)] = 1.0
    moves: ClassVar = {"sign": descend}
'''


def install(folder: Path, *, losses: str = MARGIN, update: str = UPDATE, name: str = "own-losses") -> Path:
    """Install a distribution into `folder`, to be put on PYTHONPATH."""
    module = name.replace("-", "_")
    info = folder / f"{module}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    points = f"[jboost.objectives]\nmargin = {module}:margin\n\n[jboost.updates]\nsign = {module}_update:SignDescent\n"
    (info / "entry_points.txt").write_text(points)
    (folder / f"{module}.py").write_text(losses)
    (folder / f"{module}_update.py").write_text(update)
    return folder


def write_files(folder: Path) -> None:
    """``loss.py``, ``helper.py`` and ``update.py`` in `folder`."""
    (folder / "loss.py").write_text(HINGE)
    (folder / "helper.py").write_text("SLOPE = 0.5\n")
    (folder / "update.py").write_text(UPDATE)
