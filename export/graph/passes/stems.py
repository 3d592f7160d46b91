"""Rewrite a strided convolution of few channels, such as a ResNet's first, over the phases of its input as channels.

    out[i] = sum_u w[u] x[s i + u - p];   with u + a = s q + r and a = -p mod s:   out[i] = sum_q,r w[s q + r - a] x_r[i + q - m]

where x_r[t] = x[s t + r] is phase r and m = (p + a) / s. A GPU's tensor units take 8 or 16 channels at a time, so three channels
cost them as much as the twelve phases at stride 2 do, and there are a quarter of the taps (ResNet's first layer on an H200, 64 px,
batch 256, float16: cuDNN 128 us, Triton 180 us as it is).
"""

from __future__ import annotations

from torch import fx

from jboost.export.graph.convolutions import Convolution, aten, read_convolution
from jboost.export.graph.rewriter import Rewriter, sizes

#: The most channels that the phases may have together: what a tensor unit takes at a time.
_LANES = 16


def stems_over_phases(module: fx.GraphModule) -> int:
    """Rewrite strided convolutions whose input's phases have few channels as convolutions of these phases.

    Left as they are: groups, dilations, strides that differ between the axes, kernels smaller than the stride.

    Args:
        module: the graph; it is changed in place.

    Returns:
        The number of convolutions rewritten.
    """
    r = Rewriter(module)
    for node in list(r.graph.nodes):
        conv = read_convolution(r, node)
        if conv is None or conv.transposed or conv.groups != 1 or any(d != 1 for d in conv.dilation):
            continue
        stride = conv.stride[0]
        if stride == 1 or conv.stride[1] != stride or conv.inputs * stride**2 > _LANES:
            continue
        if min(conv.weight.shape[2:]) < stride:  # most phases would meet no tap
            continue
        with r.before(node):
            r.replace(node, _over_phases(r, conv, stride))
    return r.done()


def _over_phases(r: Rewriter, conv: Convolution, s: int) -> fx.Node:
    _, C, H, W = sizes(conv.input)
    taps, pads, missing = [], [], []
    for kernel, padding, size, out in zip(
        conv.weight.shape[2:], conv.padding, (int(H), int(W)), sizes(conv.node)[2:], strict=True
    ):
        ahead = -padding % s
        front, count, entries = (padding + ahead) // s, -(-(ahead + kernel) // s), -(-size // s)
        taps.append((ahead, count))
        pads.append((front, int(out) - 1 - front + count - 1 - (entries - 1)))
        missing.append(entries * s - size)
    x = conv.input
    if any(missing):
        x = r.call(aten.constant_pad_nd.default, x, [0, missing[1], 0, missing[0]], 0.0)
        H, W = H + missing[0], W + missing[1]
    x = r.call(aten.reshape.default, x, [-1, C, H // s, s, W // s, s])
    x = r.call(aten.permute.default, x, [0, 1, 3, 5, 2, 4])
    x = r.call(aten.reshape.default, x, [-1, C * s * s, H // s, W // s])
    (top, rows), (left, columns) = taps
    weight = conv.weight.new_zeros((conv.outputs, C, rows * s, columns * s))
    weight[:, :, top : top + conv.weight.shape[2], left : left + conv.weight.shape[3]] = conv.weight
    weight = weight.reshape(-1, C, rows, s, columns, s).permute(0, 1, 3, 5, 2, 4).reshape(-1, C * s * s, rows, columns)
    (above, below), (before, after) = pads
    x = r.call(aten.constant_pad_nd.default, x, [before, after, above, below], 0.0)
    w = r.constant(weight, f"{conv.name}_phases")
    bias = conv.node.args[2]
    return r.call(aten.convolution.default, x, w, bias, [1, 1], [0, 0], [1, 1], False, [0, 0], 1)
