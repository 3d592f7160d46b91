"""The Inception network that defines FID: Google's Inception-v3 of 2015-12-05, with TensorFlow's arithmetic.

It differs from torchvision's Inception-v3 in four ways: the resizing, average pools that leave padding out of the
average, a max pool in the last block, and 1,008 logits. The names of its parameters are those of the ported weights
``pt_inception-2015-12-05-6726825d.pth`` of pytorch-fid, which are the same as torch-fidelity's
``weights-inception-2015-12-05-6726825d.pth``.

Sources: Szegedy et al. 2015 (arXiv 1512.00567); Heusel et al. 2017 (arXiv 1706.08500) for FID; Nash et al. 2021 (arXiv
2103.03841) for sFID, whose features are the first seven channels of ``mixed_6/conv`` as in OpenAI's guided-diffusion
evaluator.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from jboost.engine.errors import BadInputError

#: The published file's SHA-256 begins with this, as its name says.
PUBLISHED = "6726825d"
FEATURES, LOGITS = 2048, 1008
_SIZE = 299  # pixels, square
_SPATIAL_CHANNELS = 7

# A convolution: (name, output channels, kernel size, stride). Stride 1 keeps the size, stride 2 has no padding.
_Conv = tuple[str, int, int | tuple[int, int], int]
# A branch: convolutions in sequence; a tuple in place of one is a fork whose outputs are concatenated.
_Branch = list[_Conv | tuple[_Conv, ...]]


class ConvNorm(nn.Module):
    """Convolution without bias, batch normalisation, ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int | tuple[int, int], stride: int = 1, padding: Any = 0):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] -> [B, outputs, H', W']."""
        return F.relu(self.bn(self.conv(x)), inplace=True)


def _average(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


def _largest(x: Tensor) -> Tensor:
    return F.max_pool2d(x, 3, stride=1, padding=1)


def _shrink(x: Tensor) -> Tensor:
    return F.max_pool2d(x, 3, stride=2)


_POOLS = {"average": _average, "largest": _largest, "shrink": _shrink}


class Mixed(nn.Module):
    """An Inception block: parallel branches, concatenated; the last one begins with a pool.

    Args:
        inputs: number of input channels.
        branches: see `_Branch`; the convolutions become attributes by their names.
        pool: a key of `_POOLS`.
        after_pool: output channels of the pooled branch's convolution ``branch_pool``; 0 for none.
    """

    def __init__(self, inputs: int, branches: list[_Branch], pool: str, after_pool: int = 0):
        super().__init__()
        self._branches, self._pool = branches, _POOLS[pool]
        self.outputs = after_pool or inputs
        for branch in branches:
            channels = inputs
            for part in branch:
                convs = part if isinstance(part[0], tuple) else (part,)
                for name, outputs, kernel, stride in convs:
                    padding = "same" if stride == 1 else 0
                    self.add_module(name, ConvNorm(channels, outputs, kernel, stride, padding))
                channels = sum(conv[1] for conv in convs)
            self.outputs += channels
        self.branch_pool = ConvNorm(inputs, after_pool, 1) if after_pool else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] -> [B, outputs, H', W']."""
        results = []
        for branch in self._branches:
            y = x
            for part in branch:
                convs = part if isinstance(part[0], tuple) else (part,)
                y = torch.cat([self.get_submodule(conv[0])(y) for conv in convs], 1)
            results.append(y)
        return torch.cat([*results, self.branch_pool(self._pool(x))], 1)


def _block_35(inputs: int, pooled: int) -> Mixed:
    """35x35 pixels (Mixed_5)."""
    double: _Branch = [("branch3x3dbl_1", 64, 1, 1), ("branch3x3dbl_2", 96, 3, 1), ("branch3x3dbl_3", 96, 3, 1)]
    five: _Branch = [("branch5x5_1", 48, 1, 1), ("branch5x5_2", 64, 5, 1)]
    return Mixed(inputs, [[("branch1x1", 64, 1, 1)], five, double], "average", pooled)


def _block_35_to_17(inputs: int) -> Mixed:
    double: _Branch = [("branch3x3dbl_1", 64, 1, 1), ("branch3x3dbl_2", 96, 3, 1), ("branch3x3dbl_3", 96, 3, 2)]
    return Mixed(inputs, [[("branch3x3", 384, 3, 2)], double], "shrink")


def _block_17(inputs: int, c: int) -> Mixed:
    """17x17 pixels (Mixed_6), with 7x7 convolutions in two halves of `c` channels."""
    across, down = (1, 7), (7, 1)
    single: _Branch = [("branch7x7_1", c, 1, 1), ("branch7x7_2", c, across, 1), ("branch7x7_3", 192, down, 1)]
    double: _Branch = [
        ("branch7x7dbl_1", c, 1, 1),
        ("branch7x7dbl_2", c, down, 1),
        ("branch7x7dbl_3", c, across, 1),
        ("branch7x7dbl_4", c, down, 1),
        ("branch7x7dbl_5", 192, across, 1),
    ]
    return Mixed(inputs, [[("branch1x1", 192, 1, 1)], single, double], "average", 192)


def _block_17_to_8(inputs: int) -> Mixed:
    three: _Branch = [("branch3x3_1", 192, 1, 1), ("branch3x3_2", 320, 3, 2)]
    seven: _Branch = [
        ("branch7x7x3_1", 192, 1, 1),
        ("branch7x7x3_2", 192, (1, 7), 1),
        ("branch7x7x3_3", 192, (7, 1), 1),
        ("branch7x7x3_4", 192, 3, 2),
    ]
    return Mixed(inputs, [three, seven], "shrink")


def _block_8(inputs: int, pool: str) -> Mixed:
    """8x8 pixels (Mixed_7), with forks."""
    across, down = (1, 3), (3, 1)
    three: _Branch = [
        ("branch3x3_1", 384, 1, 1),
        (("branch3x3_2a", 384, across, 1), ("branch3x3_2b", 384, down, 1)),
    ]
    double: _Branch = [
        ("branch3x3dbl_1", 448, 1, 1),
        ("branch3x3dbl_2", 384, 3, 1),
        (("branch3x3dbl_3a", 384, across, 1), ("branch3x3dbl_3b", 384, down, 1)),
    ]
    return Mixed(inputs, [[("branch1x1", 320, 1, 1)], three, double], pool, 192)


class Inception(nn.Module):
    """Turns images of any size into the features of FID, sFID and the Inception Score.

    Args:
        tensorflow: see `prepare`.
    """

    def __init__(self, tensorflow: bool = True) -> None:
        super().__init__()
        self._tensorflow = tensorflow
        self.Conv2d_1a_3x3 = ConvNorm(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = ConvNorm(32, 32, 3)
        self.Conv2d_2b_3x3 = ConvNorm(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1 = ConvNorm(64, 80, 1)
        self.Conv2d_4a_3x3 = ConvNorm(80, 192, 3)
        self.Mixed_5b = _block_35(192, 32)
        self.Mixed_5c = _block_35(256, 64)
        self.Mixed_5d = _block_35(288, 64)
        self.Mixed_6a = _block_35_to_17(288)
        self.Mixed_6b = _block_17(768, 128)
        self.Mixed_6c = _block_17(768, 160)
        self.Mixed_6d = _block_17(768, 160)
        self.Mixed_6e = _block_17(768, 192)
        self.Mixed_7a = _block_17_to_8(768)
        self.Mixed_7b = _block_8(1280, "average")
        self.Mixed_7c = _block_8(2048, "largest")  # as in the original graph
        self.fc = nn.Linear(FEATURES, LOGITS)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Compute features, logits and spatial features.

        Args:
            x: float32 [B, 3 or 1, H, W] in [0, 255]; a grey channel is repeated.

        Returns:
            ``features`` [B, 2048], the last average pool; ``logits`` [B, 1008] without the bias, as in torch-fidelity's
            and OpenAI's Inception Score; ``spatial`` [B, 17 * 17 * 7], channels last as in OpenAI's reference files.
        """
        x = prepare(x, self._tensorflow)
        x = self.Conv2d_1a_3x3(x.expand(-1, 3, -1, -1))
        x = _shrink(self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(x)))
        x = _shrink(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x)))
        x = self.Mixed_6a(self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(x))))
        x = self.Mixed_6c(self.Mixed_6b(x))
        spatial = self.Mixed_6d.get_submodule("branch1x1")(x)[:, :_SPATIAL_CHANNELS]  # TensorFlow's mixed_6/conv
        x = self.Mixed_6e(self.Mixed_6d(x))
        x = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x)))
        features = x.mean((2, 3))
        return {
            "features": features,
            "logits": features @ self.fc.weight.T,
            "spatial": spatial.permute(0, 2, 3, 1).flatten(1),
        }


def prepare(x: Tensor, tensorflow: bool) -> Tensor:
    """Resize and scale images for the network.

    Args:
        x: float32 [B, C, H, W] in [0, 255].
        tensorflow: as the original graph and torch-fidelity do; else as pytorch-fid does, with pixels' centres and 255 as 1.

    Returns:
        float32 [B, C, 299, 299] in [-1, 1].
    """
    if tensorflow:
        return (resize(x, _SIZE) - 128) / 128
    return 2 * F.interpolate(x / 255, (_SIZE, _SIZE), mode="bilinear", align_corners=False) - 1


def resize(x: Tensor, size: int) -> Tensor:
    """Resize bilinearly as TensorFlow 1's ``ResizeBilinear``: a pixel's position is its corner, not its centre.

    Args:
        x: float32 [B, C, H, W].
        size: pixels, square.
    """
    for axis in (3, 2):
        length = x.shape[axis]
        # float32 throughout, as in TensorFlow: the last bit of a position decides between neighbours.
        scale = torch.tensor(length / size, dtype=torch.float32, device=x.device)
        place = torch.arange(size, dtype=torch.float32, device=x.device) * scale
        low = place.long()
        high = (low + 1).clamp_max(length - 1)
        share = (place - low).view(-1, *[1] * (3 - axis))
        lower = x.index_select(axis, low)
        x = lower + (x.index_select(axis, high) - lower) * share
    return x


def load_inception(path: Path, tensorflow: bool = True) -> Inception:
    """Load the network with the weights in `path`, on the CPU, for inference; `tensorflow`: see `prepare`.

    Raises:
        BadInputError: the file does not hold tensors, or not this network's.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, OSError) as e:
        raise BadInputError(
            f"--features {path} is not a file that torch can load as plain tensors ({type(e).__name__}); give Inception's weights "
            "(.pth), an .onnx, TorchScript or .pt2 file, or package.module:factory"
        ) from e
    network = Inception(tensorflow)
    expected = {name: t.shape for name, t in network.state_dict().items() if not name.endswith("num_batches_tracked")}
    if not isinstance(state, Mapping) or not set(expected) <= set(state):
        found = list(state)[:3] if isinstance(state, Mapping) else type(state).__name__
        raise BadInputError(
            f"--features {path} holds the weights of another network than FID's Inception (it has {found}, ...): weights alone do "
            "not define a network; give an .onnx, TorchScript or .pt2 file, or package.module:factory"
        )
    odd = [name for name, shape in expected.items() if getattr(state[name], "shape", None) != shape]
    if odd:
        raise BadInputError(f"--features {path}: {odd[0]} has another shape than in FID's Inception; download it again")
    network.load_state_dict({name: state[name] for name in expected}, strict=False)
    return network.eval().requires_grad_(False)
