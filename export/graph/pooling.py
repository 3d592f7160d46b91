"""Pooling and its gradients as plain operators.

Max-pooling works one axis at a time. torch sends the gradient to a window's first maximum in row-major order: the first
row that attains the maximum, and in that row the first column. So two passes of k comparisons give exactly the
result of one pass of k*k. Average pooling of every kind (ceil mode, adaptive pooling to sizes that do not divide the
input) is a fixed matrix along each axis.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

aten = torch.ops.aten


def _pair(value: Sequence[int], default: Sequence[int] | None = None) -> tuple[int, int]:
    values = list(value) or list(default or ())
    return (values[0], values[-1])


def _windows(size: int, kernel: int, stride: int, padding: int, dilation: int, ceil: bool) -> int:
    """Return the number of windows that torch places along an axis."""
    span = size + 2 * padding - dilation * (kernel - 1) - 1
    count = (-(-span // stride) if ceil else span // stride) + 1
    if ceil and (count - 1) * stride >= size + padding:
        count -= 1  # a window must start inside the input or its left padding
    return count


class _Axis:
    """Max-pooling along one axis of [B, C, H, W]."""

    def __init__(self, dim: int, size: int, kernel: int, stride: int, padding: int, dilation: int, ceil: bool) -> None:
        self.dim, self.size, self.kernel, self.stride, self.dilation = dim, size, kernel, stride, dilation
        self.before = padding
        self.count = _windows(size, kernel, stride, padding, dilation, ceil)
        self.reach = (self.count - 1) * stride + dilation * (kernel - 1) + 1
        self.after = max(0, self.reach - size - padding)
        self.covering = -(-(dilation * (kernel - 1) + 1) // stride)

    def _pads(self, before: int, after: int) -> list[int]:
        return [before, after, 0, 0] if self.dim == 3 else [0, 0, before, after]

    def taps(self, x: Tensor) -> list[Tensor]:
        """Return the entries at each offset in the window: `kernel` tensors with `count` entries along the axis."""
        if self.before or self.after:
            x = aten.constant_pad_nd(x, self._pads(self.before, self.after), -math.inf)
        last = (self.count - 1) * self.stride + 1
        return [
            aten.slice(x, self.dim, k * self.dilation, k * self.dilation + last, self.stride)
            for k in range(self.kernel)
        ]

    def forward(self, x: Tensor) -> Tensor:
        taps = self.taps(x)
        top = taps[0]
        for tap in taps[1:]:
            top = torch.maximum(top, tap)
        return top

    def backward(self, grad: Tensor, x: Tensor, top: Tensor) -> Tensor:
        """Send each entry of `grad` to the first tap that equals the maximum."""
        parts, rest = [], grad
        taps = self.taps(x)
        for tap in taps[:-1]:
            hit = tap == top
            parts.append(torch.where(hit, rest, 0.0))
            rest = torch.where(hit, 0.0, rest)
        parts.append(rest)  # the last tap gets whatever no earlier tap took
        return self._spread(parts)

    def windows(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the windows that may cover each entry: (index int64 [size] in [0, count), exists bool [size])."""
        last = (torch.arange(self.size) + self.before) // self.stride
        for back in range(self.covering):
            window = last - back
            yield window.clamp(0, self.count - 1), (window >= 0) & (window < self.count)

    def _spread(self, parts: list[Tensor]) -> Tensor:
        """Add parts[k][..., i] to position i * stride + k * dilation: sum within each phase, then interleave phases."""
        length = -(-(self.before + self.size + self.after) // self.stride)
        phases: list[Tensor | None] = [None] * self.stride
        for k, part in enumerate(parts):
            shift, phase = divmod(k * self.dilation, self.stride)
            before, after = shift, length - shift - self.count
            if before or after:  # a negative pad crops entries beyond the input
                part = aten.constant_pad_nd(part, self._pads(before, after), 0.0)
            known = phases[phase]
            phases[phase] = part if known is None else known + part
        if self.stride == 1:
            whole = phases[0]
            assert whole is not None
        else:
            zero = torch.zeros_like(next(p for p in phases if p is not None))
            stacked = torch.stack([zero if p is None else p for p in phases], dim=self.dim + 1)
            shape = list(stacked.shape)
            whole = stacked.reshape([*shape[: self.dim], -1, *shape[self.dim + 2 :]])
        if self.before or whole.shape[self.dim] != self.size:
            whole = aten.slice(whole, self.dim, self.before, self.before + self.size)
        return whole


def _axes(
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil: bool,
) -> tuple[_Axis, _Axis]:
    k, p, d = _pair(kernel), _pair(padding, (0,)), _pair(dilation, (1,))
    s = _pair(stride, k)
    rows = _Axis(2, int(x.shape[2]), k[0], s[0], p[0], d[0], ceil)
    columns = _Axis(3, int(x.shape[3]), k[1], s[1], p[1], d[1], ceil)
    return rows, columns


def max_pool_shifted(
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    dilation: Sequence[int] = (1,),
    ceil_mode: bool = False,
) -> tuple[Tensor, Tensor]:
    """Max-pooling [B, C, H, W] as slices and maxima. The indices (second result) are a placeholder; never read them."""
    rows, columns = _axes(x, kernel, stride, padding, dilation, ceil_mode)
    top = rows.forward(columns.forward(x))
    return top, torch.zeros_like(top, dtype=torch.int64)


def max_pool_shifted_gradient(
    grad: Tensor,
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil_mode: bool,
    indices: Tensor,
) -> Tensor:
    """Input gradient of max-pooling; ties go to the first maximum in row-major order, as in torch."""
    rows, columns = _axes(x, kernel, stride, padding, dilation, ceil_mode)
    by_row = columns.forward(x)
    return columns.backward(rows.backward(grad, by_row, rows.forward(by_row)), x, by_row)


def max_pool_scatter_gradient(
    grad: Tensor,
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil_mode: bool,
    indices: Tensor,
) -> Tensor:
    """Input gradient of max-pooling from the indices that torch's forward operator returns (flat within each [H, W])."""
    B, C, H, W = x.shape
    into = grad.new_zeros((B, C, H * W))
    return into.scatter_add(2, indices.reshape(B, C, -1), grad.reshape(B, C, -1)).reshape(B, C, H, W)


def max_pool_gather_gradient(
    grad: Tensor,
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil_mode: bool,
    indices: Tensor,
) -> Tensor:
    """Input gradient of max-pooling: each entry sums the gradients of the windows that chose it.

    The indices are those of `max_pool_scatter_gradient`. Each entry is computed on its own, so no two threads write the
    same number. If more than 9 windows may cover an entry, this calls `max_pool_shifted_gradient`.
    """
    rows, columns = _axes(x, kernel, stride, padding, dilation, ceil_mode)
    if rows.covering * columns.covering > 9:
        return max_pool_shifted_gradient(grad, x, kernel, stride, padding, dilation, ceil_mode, indices)
    position = torch.arange(rows.size)[:, None] * columns.size + torch.arange(columns.size)
    total: Tensor | None = None
    for row, is_row in rows.windows():
        for column, is_column in columns.windows():
            # Where no such window exists, -1 matches no index. This depends on sizes alone, so it folds to constants.
            wanted = torch.where(is_row[:, None] & is_column, position, -1)
            at = [None, None, row[:, None], column]
            part = torch.where(aten._unsafe_index(indices, at) == wanted, aten._unsafe_index(grad, at), 0.0)
            total = part if total is None else total + part
    assert total is not None
    return total


def _matrices(x: Tensor, windows: Callable[[int, int], Iterable[tuple[int, int, float]]]) -> tuple[Tensor, Tensor]:
    """Build average pooling as one matrix [windows, size] for the rows and one for the columns of x [B, C, H, W].

    Args:
        x: gives sizes, dtype and device.
        windows: (axis 0 or 1, its size) -> (start, end, divisor) of each window: the entries it covers, and the divisor
            of their sum.
    """

    def along(axis: int) -> Tensor:
        size = int(x.shape[2 + axis])
        # Built from operators, so the matrix folds to a constant.
        return torch.stack(
            [
                torch.nn.functional.pad(x.new_full((end - start,), 1.0 / divisor), (start, size - end))
                for start, end, divisor in windows(axis, size)
            ]
        )

    return along(0), along(1)


def _average_matrices(
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    ceil: bool,
    include_pad: bool,
    divisor: int | None,
) -> tuple[Tensor, Tensor]:
    k, p = _pair(kernel), _pair(padding, (0,))
    s = _pair(stride, k)

    def windows(axis: int, size: int) -> Iterator[tuple[int, int, float]]:
        for i in range(_windows(size, k[axis], s[axis], p[axis], 1, ceil)):
            start = i * s[axis] - p[axis]
            end = min(start + k[axis], size + p[axis])
            low, high = max(start, 0), min(end, size)
            count = end - start if include_pad else high - low
            if divisor is not None:  # it replaces the product of both axes' counts, so one axis takes all of it
                count = divisor if axis == 0 else 1
            yield low, high, float(count)

    return _matrices(x, windows)


def _adaptive_matrices(x: Tensor, output_size: Sequence[int]) -> tuple[Tensor, Tensor]:
    def windows(axis: int, size: int) -> Iterator[tuple[int, int, float]]:
        out = int(output_size[axis])
        for i in range(out):
            start, end = i * size // out, -(-(i + 1) * size // out)
            yield start, end, float(end - start)

    return _matrices(x, windows)


def _apply(rows: Tensor, columns: Tensor, x: Tensor) -> Tensor:
    return rows @ (x @ columns.t())


def avg_pool(
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """Average pooling [B, C, H, W] as one matrix product along each axis."""
    rows, columns = _average_matrices(x, kernel, stride, padding, ceil_mode, count_include_pad, divisor_override)
    return _apply(rows, columns, x)


def avg_pool_gradient(
    grad: Tensor,
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None,
) -> Tensor:
    """Input gradient of average pooling: the transposed matrices."""
    rows, columns = _average_matrices(x, kernel, stride, padding, ceil_mode, count_include_pad, divisor_override)
    return _apply(rows.t(), columns.t(), grad)


def adaptive_avg_pool(x: Tensor, output_size: Sequence[int]) -> Tensor:
    """Adaptive average pooling at any size; global pooling stays a mean."""
    if list(output_size) == [1, 1]:
        return x.mean((2, 3), keepdim=True)
    if list(output_size) == list(x.shape[2:]):
        return x.clone()
    rows, columns = _adaptive_matrices(x, output_size)
    return _apply(rows, columns, x)


def adaptive_avg_pool_gradient(grad: Tensor, x: Tensor) -> Tensor:
    """Input gradient of adaptive average pooling."""
    if list(grad.shape[2:]) == [1, 1]:
        return (grad / (x.shape[2] * x.shape[3])).expand(x.shape)
    rows, columns = _adaptive_matrices(x, grad.shape[2:])
    return _apply(rows.t(), columns.t(), grad)


def _even_windows(x: Tensor, output_size: Sequence[int]) -> list[int] | None:
    """Return the kernel of adaptive pooling whose windows do not overlap and cover the map; None if it has no such windows."""
    sizes = [int(s) for s in x.shape[-2:]]
    return (
        None
        if any(s % out for s, out in zip(sizes, output_size, strict=True))
        else [s // out for s, out in zip(sizes, output_size, strict=True)]
    )


def adaptive_max_pool(x: Tensor, output_size: Sequence[int]) -> Any:
    """Adaptive max-pooling whose output size divides the map: max-pooling. The indices are a placeholder; never read them."""
    kernel = _even_windows(x, output_size)
    return NotImplemented if kernel is None else max_pool_shifted(x, kernel)


def adaptive_max_pool_gradient(grad: Tensor, x: Tensor, indices: Tensor) -> Any:
    """Input gradient of `adaptive_max_pool`; ties go to the first maximum in row-major order, as in torch."""
    kernel = _even_windows(x, grad.shape[-2:])
    if kernel is None:
        return NotImplemented
    return max_pool_shifted_gradient(grad, x, kernel, kernel, (0,), (1,), False, indices)


def replication_pad_gradient(grad: Tensor, x: Tensor, padding: Sequence[int]) -> Tensor:
    """Input gradient of padding that repeats the border: one matrix along each axis, which adds the copies' gradients."""

    def along(axis: int, before: int) -> Tensor:
        size = int(x.shape[axis])
        source = (torch.arange(int(grad.shape[axis])) - before).clamp(0, size - 1)
        return (source[:, None] == torch.arange(size)).to(x.dtype)

    left, _, top, _ = padding
    return _apply(along(-2, top).t(), along(-1, left).t(), grad)


_COMMON: dict[Any, Callable[..., Any]] = {
    aten.avg_pool2d.default: avg_pool,
    aten.avg_pool2d_backward.default: avg_pool_gradient,
    aten._adaptive_avg_pool2d.default: adaptive_avg_pool,
    aten._adaptive_avg_pool2d_backward.default: adaptive_avg_pool_gradient,
    aten.adaptive_max_pool2d.default: adaptive_max_pool,
    aten.adaptive_max_pool2d_backward.default: adaptive_max_pool_gradient,
    aten.replication_pad2d_backward.default: replication_pad_gradient,
}

#: Rules by form of max-pooling and its gradient.
RULES: dict[str, dict[Any, Callable[..., Any]]] = {
    # For targets without max-pooling with indices (TensorRT), or with comparisons as fast as indices.
    "shifted": _COMMON
    | {
        aten.max_pool2d_with_indices.default: max_pool_shifted,
        aten.max_pool2d_with_indices_backward.default: max_pool_shifted_gradient,
    },
    # For Inductor on a CPU.
    "scatter": _COMMON | {aten.max_pool2d_with_indices_backward.default: max_pool_scatter_gradient},
    # For Inductor on a GPU.
    "gather": _COMMON
    | {
        aten.max_pool2d_with_indices_backward.default: max_pool_gather_gradient,
        aten._unsafe_index.Tensor: lambda *_: NotImplemented,  # keep it: torch's rule would check each index
    },
}
