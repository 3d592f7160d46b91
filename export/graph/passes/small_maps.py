"""Write convolutions over maps of a few pixels as matrix products.

Convolution kernels block over the pixels of one image; with only four pixels they leave a core's registers half empty.
A matrix product blocks over the whole batch. Three forms, all exact:

* a 1x1 convolution is a product over channels, with one row per pixel of the batch;
* a larger kernel over a map with fewer pixels than the kernel has taps (3x3 over 2x2) reads mostly padding. One matrix
  from all inputs of an image to all its outputs needs fewer multiplications than the convolution;
* any other kernel is a product over channels and taps, with one row per output pixel of the batch: a patch of the
  input.
"""

from __future__ import annotations

import torch
from torch import Tensor, fx

from jboost.export.graph.convolutions import Convolution, aten, read_convolution
from jboost.export.graph.pixels import as_map, mix_pixels
from jboost.export.graph.rewriter import Rewriter, sizes

# A 1x1 convolution with at least this many output pixels per image fills the registers by itself. Measured on an
# AVX-512 core at batch 32, oneDNN's convolution against its own matrix product: 2x2 pixels take 2.0 to 2.9 times as
# long, 8x8 pixels the same time. 4x4 pixels take 1.1 to 1.25 times as long, which fusing other operators into the
# convolution makes up for.
_PIXELS = 16
# Larger kernels with at most this many output pixels: 512 channels, 3x3 of stride 2 from 4x4 to 2x2 pixels take 8.7 ms
# as a convolution, 3.6 ms as a product.
_PATCH_PIXELS = 16
# Each number of a patch takes C_out multiplications, and gathering it adds H*W more. This is the largest ratio of H*W
# to C_out. At 4x4 output pixels, a quarter is as fast either way, a half loses a fifth, a tenth gains a third. Batches
# of 1, 32 and 128 agree.
_MOST_GATHERING = 0.25
# The matrix may hold at most this many times the kernel's numbers.
_MOST_GROWTH = 4


def small_maps_as_products(module: fx.GraphModule) -> int:
    """Rewrite convolutions over maps of a few pixels as matrix products over the batch.

    Returns:
        The number of convolutions rewritten.
    """
    r = Rewriter(module)
    for node in list(r.graph.nodes):
        conv = read_convolution(r, node)
        if conv is None or conv.transposed or conv.groups != 1:
            continue
        height, width = sizes(conv.input)[2:]
        out = sizes(node)[2] * sizes(node)[3]
        taps = conv.weight.shape[2] * conv.weight.shape[3]
        with r.before(node):
            if taps == 1 and not any(conv.padding) and out < _PIXELS:
                r.replace(node, _pixels_as_rows(r, conv))
            elif height * width < taps and height * width * out <= _MOST_GROWTH * taps:
                r.replace(node, _images_as_rows(r, conv))
    return r.done()


def patches_as_rows(module: fx.GraphModule) -> int:
    """Rewrite convolutions of several taps with small output maps as matrix products over their input patches.

    Gathering the patches is a matrix product too, with a constant matrix over the pixels. With an open batch this
    changes nothing, nor in half precision: there the products are no faster (bfloat16, AVX-512).

    Returns:
        The number of convolutions rewritten.
    """
    r = Rewriter(module)
    for node in list(r.graph.nodes):
        conv = read_convolution(r, node)
        if conv is None or conv.transposed or conv.groups != 1 or conv.is_half:
            continue
        if not isinstance(sizes(conv.input)[0], int):
            continue
        (_, _, height, width), (_, _, out_height, out_width) = sizes(conv.input), sizes(node)
        taps = conv.weight.shape[2] * conv.weight.shape[3]
        cheap = height * width <= _MOST_GATHERING * conv.outputs
        if taps > 1 and out_height * out_width <= _PATCH_PIXELS and cheap:
            with r.before(node):
                r.replace(node, _patches_as_rows(r, conv))
    return r.done()


def _product(r: Rewriter, rows: fx.Node, matrix: Tensor, bias: Tensor | None, name: str) -> fx.Node:
    """Multiply rows [n, k] by a constant [k, m] and add a constant [m]."""
    weight = r.call(aten.t.default, r.constant(matrix.t(), f"{name}_matrix"))  # stored like a linear layer's weights
    if bias is None:
        return r.call(aten.mm.default, rows, weight)
    return r.call(aten.addmm.default, r.constant(bias, f"{name}_bias"), rows, weight)


def _pixels_as_rows(r: Rewriter, conv: Convolution) -> fx.Node:
    """Write a 1x1 convolution as pixels [B*H*W, C_in] times the weights, channels last like the target's maps."""
    x = conv.input
    for axis, stride in zip((2, 3), conv.stride, strict=True):
        if stride > 1:
            x = r.call(aten.slice.Tensor, x, axis, 0, sizes(x)[axis], stride)
    channels, height, width = sizes(x)[1:]
    rows = r.call(aten.reshape.default, r.call(aten.permute.default, x, [0, 2, 3, 1]), [-1, channels])
    out = _product(r, rows, conv.weight.flatten(1).t(), conv.bias, conv.name)
    return as_map(r, out, height, width, conv.outputs)


def _images_as_rows(r: Rewriter, conv: Convolution) -> fx.Node:
    """Write any convolution as images [B, H*W*C_in] times the matrix of its linear map."""
    channels, height, width = sizes(conv.input)[1:]
    matrix = _matrix(conv, height, width)
    outputs, out_height, out_width = sizes(conv.node)[1:]
    bias = None if conv.bias is None else conv.bias.repeat(out_height * out_width)
    rows = r.call(aten.permute.default, conv.input, [0, 2, 3, 1])
    rows = r.call(aten.reshape.default, rows, [-1, height * width * channels])
    out = _product(r, rows, matrix, bias, conv.name)
    return as_map(r, out, out_height, out_width, outputs)


def _patches_as_rows(r: Rewriter, conv: Convolution) -> fx.Node:
    """Write any convolution as patches [B*H'*W', taps*C_in] times the weights."""
    channels, height, width = sizes(conv.input)[1:]
    out_height, out_width = sizes(conv.node)[2:]
    kernel = conv.weight.shape[2:]
    taps = kernel[0] * kernel[1]
    # One kernel per tap, with a one at the tap: its convolution returns the pixels that the tap reads.
    reads = _answers(conv, torch.eye(taps, dtype=conv.weight.dtype).reshape(taps, 1, *kernel), height, width)
    pick = reads.permute(2, 1, 0).reshape(-1, height * width)  # [H'*W'*taps, H*W]
    rows = r.call(aten.reshape.default, mix_pixels(r, conv.input, pick, "patches"), [-1, taps * channels])
    matrix = conv.weight.permute(2, 3, 1, 0).reshape(taps * channels, conv.outputs)
    out = _product(r, rows, matrix, conv.bias, conv.name)
    return as_map(r, out, out_height, out_width, conv.outputs)


def _answers(conv: Convolution, kernel: Tensor, height: int, width: int) -> Tensor:
    """Convolve each unit map with each kernel [kernels, 1, kh, kw] at `conv`'s stride; return [H*W, kernels, H'*W']."""
    one = torch.eye(height * width, dtype=kernel.dtype).reshape(-1, 1, height, width)
    return torch.nn.functional.conv2d(one, kernel, None, conv.stride, conv.padding, conv.dilation).flatten(2)


def _matrix(conv: Convolution, height: int, width: int) -> Tensor:
    """Return the convolution's matrix [H*W*C_in, H'*W'*C_out]: its response to each unit input."""
    out, channels = conv.weight.shape[:2]
    # Each pair of channels is one kernel.
    kernel = conv.weight.reshape(out * channels, 1, *conv.weight.shape[2:])
    answers = _answers(conv, kernel, height, width)
    answers = answers.reshape(height * width, out, channels, -1)  # [H*W, C_out, C_in, H'*W']
    return answers.permute(0, 2, 3, 1).reshape(height * width * channels, -1)
