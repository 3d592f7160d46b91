"""Rewrite transposed convolutions, the input gradients of convolutions, as plain ones.

At stride 1 the input gradient is a convolution with the weights rotated by 180 degrees and their channel axes swapped.
At stride s, the output positions with the same remainder modulo s form a phase. Each phase is an ordinary convolution
with every s-th tap (a sub-pixel convolution):

    out[s t + a] = sum_j in[t + m - j] * w[r + s j],     r = (a + padding) mod s,     m = (a + padding - r) / s

The s*s phases are computed either one by one, without excess multiplications, or all at once: one large convolution
instead of several small ones, with the kernels padded to one size and the phases as channels.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, fx

from jboost.export.graph.convolutions import Convolution, aten, crop_and_add_bias, read_convolution
from jboost.export.graph.rewriter import Rewriter, sizes

#: How a strided input gradient is written: "transposed" leaves the transposed convolution, "phases" computes phase by
#: phase, "merged" all phases in one convolution, "cheapest" merges where that costs nothing, else works phase by phase.
Strided = Literal["transposed", "phases", "merged", "cheapest"]

# A convolution computes this many output channels at a time (a float32 vector on AVX-512), so the three channels of an
# image cost as much as the twelve of its four phases. ResNet's first layer at 64 px, batch 32: 20 ms phase by phase,
# 7 ms merged.
_LANES = 16


def as_plain_weight(conv: Convolution) -> Tensor:
    """Convert a transposed convolution's weights [in, out/g, kh, kw] to [out, in/g, kh, kw], rotated by 180 degrees."""
    w, g = conv.weight, conv.groups
    blocks = w.reshape(g, w.shape[0] // g, *w.shape[1:]).transpose(1, 2)
    return blocks.reshape(conv.outputs, w.shape[0] // g, *w.shape[2:]).flip(2, 3)


def flip_weights(module: fx.GraphModule) -> int:
    """Rewrite stride-1 transposed convolutions as plain ones with flipped, transposed constant weights.

    Returns:
        The number of convolutions rewritten.
    """
    r = Rewriter(module)
    for node in list(r.graph.nodes):
        conv = read_convolution(r, node)
        if conv is None or not conv.transposed or any(s != 1 for s in conv.stride) or any(conv.output_padding):
            continue
        padding = [d * (k - 1) - p for d, k, p in zip(conv.dilation, conv.weight.shape[2:], conv.padding, strict=True)]
        if min(padding) < 0:
            continue
        with r.before(node):
            weight = r.constant(as_plain_weight(conv), f"{conv.name}_flipped")
            r.replace(
                node,
                r.call(
                    aten.convolution.default, conv.input, weight, node.args[2], [1, 1], padding, list(conv.dilation), False,
                    [0, 0], conv.groups,
                ),
            )  # fmt: skip
    return r.done()


class _Taps:
    """Taps along one axis: for each phase a, the pairs (input offset from t, tap)."""

    def __init__(self, kernel: int, stride: int, padding: int, size: int, out: int) -> None:
        self.phases: list[list[tuple[int, int]]] = []  # (offset, tap), by offset
        for a in range(stride):
            r = (a + padding) % stride
            m = (a + padding - r) // stride
            taps = [(m - j, r + stride * j) for j in range(-(-(kernel - r) // stride))]
            self.phases.append(sorted(taps))
        self.size, self.count = size, -(-out // stride)

    def pads(self, offsets: list[int]) -> tuple[int, int]:
        """Return zeros to add per side (negative: entries to drop) for a valid convolution to yield `count` entries."""
        return -min(offsets), self.count - 1 + max(offsets) - (self.size - 1)


def _convolve(r: Rewriter, x: fx.Node, weight: Tensor, name: str, pads: list[tuple[int, int]], groups: int) -> fx.Node:
    """Add a stride-1 convolution of `x` with pads [(top, bottom), (left, right)]."""
    symmetric = all(a == b >= 0 for a, b in pads)
    if not symmetric:
        (top, bottom), (left, right) = pads
        x = r.call(aten.constant_pad_nd.default, x, [left, right, top, bottom], 0.0)
    padding = [a for a, _ in pads] if symmetric else [0, 0]
    w = r.constant(weight, name)
    return r.call(aten.convolution.default, x, w, None, [1, 1], padding, [1, 1], False, [0, 0], groups)


def _spread(r: Rewriter, x: fx.Node, steps: tuple[int, int], channels_last: bool) -> fx.Node:
    """Spread [B, C, H, W] to [B, C, s0 H, s1 W], with zeros after every entry of the two axes."""
    _, C, H, W = sizes(x)
    zeros = [0, steps[1] - 1, 0, 0, 0, steps[0] - 1]
    if not channels_last:
        x = r.call(aten.constant_pad_nd.default, r.call(aten.reshape.default, x, [-1, C, H, 1, W, 1]), zeros, 0.0)
        return r.call(aten.reshape.default, x, [-1, C, H * steps[0], W * steps[1]])
    x = r.call(aten.permute.default, x, [0, 2, 3, 1])
    x = r.call(aten.constant_pad_nd.default, r.call(aten.reshape.default, x, [-1, H, 1, W, 1, C]), [0, 0, *zeros], 0.0)
    x = r.call(aten.reshape.default, x, [-1, H * steps[0], W * steps[1], C])
    return r.call(aten.permute.default, x, [0, 3, 1, 2])


def _phase_by_phase(
    r: Rewriter, conv: Convolution, weight: Tensor, axes: tuple[_Taps, _Taps], channels_last: bool
) -> fx.Node:
    """Compute [B, C, s*T, s*T]: one convolution per phase (zeros for a phase without taps), then interleave."""
    rows, columns = axes
    computed: dict[tuple[int, int], fx.Node] = {}
    for i, row in enumerate(rows.phases):
        for j, column in enumerate(columns.phases):
            if row and column:
                w = weight[:, :, [k for _, k in row]][:, :, :, [k for _, k in column]]
                pads = [rows.pads([o for o, _ in row]), columns.pads([o for o, _ in column])]
                computed[i, j] = _convolve(r, conv.input, w, f"{conv.name}_phase{i}{j}", pads, conv.groups)
    first = next(iter(computed.values()))
    _, C, T0, T1 = sizes(first)
    if len(computed) == 1 and (0, 0) in computed:  # a 1x1 kernel: the gradient at every s-th position, zeros between
        return _spread(r, first, (len(rows.phases), len(columns.phases)), channels_last)
    zero = None if len(computed) == len(rows.phases) * len(columns.phases) else r.call(aten.mul.Tensor, first, 0.0)
    bands = []
    for i in range(len(rows.phases)):
        parts = [r.call(aten.unsqueeze.default, computed.get((i, j), zero), 4) for j in range(len(columns.phases))]
        band = r.call(aten.cat.default, parts, 4)
        bands.append(r.call(aten.reshape.default, band, [-1, C, T0, 1, T1 * len(columns.phases)]))
    whole = r.call(aten.cat.default, bands, 3)
    return r.call(aten.reshape.default, whole, [-1, C, T0 * len(rows.phases), T1 * len(columns.phases)])


def _all_at_once(r: Rewriter, conv: Convolution, weight: Tensor, axes: tuple[_Taps, _Taps]) -> fx.Node:
    """Compute [B, C, s*T, s*T]: one convolution to s*s*C channels, then depth to space."""
    rows, columns = axes
    ranges = [sorted({o for phase in axis.phases for o, _ in phase}) for axis in axes]
    low = [offsets[0] for offsets in ranges]
    span = [offsets[-1] - offsets[0] + 1 for offsets in ranges]
    s0, s1 = len(rows.phases), len(columns.phases)
    merged = weight.new_zeros((weight.shape[0], s0, s1, weight.shape[1], *span))
    for i, row in enumerate(rows.phases):
        for j, column in enumerate(columns.phases):
            for u, k in row:
                for v, m in column:
                    merged[:, i, j, :, u - low[0], v - low[1]] = weight[:, :, k, m]
    pads = [axis.pads(offsets) for axis, offsets in zip(axes, ranges, strict=True)]
    merged = merged.reshape(-1, weight.shape[1], *span)
    deep = _convolve(r, conv.input, merged, f"{conv.name}_merged", pads, conv.groups)
    return r.call(aten.pixel_shuffle.default, deep, s0)


def split_strided(module: fx.GraphModule, form: Strided = "cheapest", *, channels_last: bool = False) -> int:
    """Rewrite strided transposed convolutions as stride-1 plain ones and an interleaving; ``"transposed"`` keeps them.

    Merging falls back to ``"phases"`` for kernels that leave whole phases empty (1x1 at stride 2), strides that differ
    between the axes, and groups.

    Args:
        module: the graph; it is changed in place.
        form: see `Strided`.
        channels_last: the target keeps its maps channels last; zeros are then inserted in that order.

    Returns:
        The number of convolutions rewritten.
    """
    if form == "transposed":
        return 0
    r = Rewriter(module)
    for node in list(r.graph.nodes):
        conv = read_convolution(r, node)
        if (
            conv is None
            or not conv.transposed
            or all(s == 1 for s in conv.stride)
            or any(d != 1 for d in conv.dilation)
        ):
            continue
        kernel, out, size = conv.weight.shape[2:], sizes(node)[2:], sizes(conv.input)[2:]
        rows, columns = (
            _Taps(int(kernel[i]), conv.stride[i], conv.padding[i], int(size[i]), int(out[i])) for i in (0, 1)
        )
        # Plain layout with the taps in their original order: each phase selects its taps by number.
        weight = as_plain_weight(conv).flip(2, 3)
        square = conv.stride[0] == conv.stride[1] and conv.groups == 1
        with r.before(node):
            merge = form == "merged" or (form == "cheapest" and conv.stride[0] ** 2 * conv.outputs <= _LANES)
            if merge and square and all(rows.phases) and all(columns.phases):
                whole = _all_at_once(r, conv, weight, (rows, columns))
            else:
                whole = _phase_by_phase(r, conv, weight, (rows, columns), channels_last)
            r.replace(node, crop_and_add_bias(r, conv, whole))
    return r.done()
