"""Convolution, pooling and dense layers as ops, channels last: images (N, H, W, C), weights (kh, kw, C, F)."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..backend import kernels
from ..kernels.plain import Pads, Pair
from ..tape import Array, Recorded
from ..tensor import op
from .basic import with_relu

Padding = str | int | Pads


def pair(value: int | Pair) -> Pair:
    """3 -> (3, 3); (3, 1) stays."""
    return (value, value) if isinstance(value, int | np.integer) else (value[0], value[1])


def resolve_padding(padding: Padding, size: Any, kernel: Pair, stride: Pair) -> Pads:
    """The padding as ((top, bottom), (left, right)).

    "valid": none; an integer: so many pixels on every side; "same": what gives ceil(size / stride) outputs. Of an odd
    number of rows or columns, the last one goes to the bottom or the right, as in Keras.
    """
    if padding == "same":
        total = [max((-(-n // s) - 1) * s + k - n, 0) for n, k, s in zip(size, kernel, stride)]
        return (total[0] // 2, total[0] - total[0] // 2), (total[1] // 2, total[1] - total[1] // 2)
    padding = 0 if padding == "valid" else padding
    if isinstance(padding, int | np.integer):
        sides = (padding, padding), (padding, padding)
    elif isinstance(padding, str):
        raise ValueError(f'padding {padding!r}: use "same", "valid", an integer, or ((top, bottom), (left, right)).')
    else:
        sides = pair(padding[0]), pair(padding[1])
    if min(*sides[0], *sides[1]) < 0:
        raise ValueError(f"padding {padding}: it may not be negative.")
    return sides


@op
def conv2d(
    x: Array, w: Array, b: Array = None, *, stride: Any = 1, padding: Padding = "same", relu: bool = False,
    exact: bool = False,
) -> Recorded:  # fmt: skip
    """Cross-correlation of x (N, H, W, C) with w (kh, kw, C, F), plus b (F,): -> (N, P, Q, F).

    relu: max(out, 0) in the same pass. exact: no Winograd algorithm, which is faster but rounds to 1e-5 in float32.
    """
    if x.ndim != 4 or w.ndim != 4 or x.shape[3] != w.shape[2]:
        raise ValueError(
            f"conv2d takes x (N, H, W, C) and w (kh, kw, C, F) with the same C, got {x.shape} and {w.shape}."
        )
    size, kernel, stride, k = x.shape[1:3], w.shape[:2], pair(stride), kernels(x)
    pads = resolve_padding(padding, size, kernel, stride)
    vjps = (
        lambda g: k.conv2d_gx(g, w, size=size, stride=stride, pads=pads, exact=exact),
        lambda g: k.conv2d_gw(x, g, kernel=kernel, stride=stride, pads=pads, exact=exact),
        k.channel_sums,
    )
    out = k.conv2d(x, w, b, stride=stride, pads=pads, relu=relu, exact=exact)
    return out, with_relu(out, vjps) if relu else vjps


@op
def linear(x: Array, w: Array, b: Array = None) -> Recorded:
    """x (N, D) @ w (D, F) + b (F,): -> (N, F)."""
    if x.ndim != 2 or w.ndim != 2 or x.shape[1] != w.shape[0]:
        raise ValueError(f"linear takes x (N, D) and w (D, F) with the same D, got {x.shape} and {w.shape}.")
    k = kernels(x)
    return k.linear(x, w, b), (
        lambda g: k.linear_gx(g, w),
        lambda g: k.linear_gw(x, g),
        lambda g: g.sum(axis=0),
    )


@op
def max_pool(
    x: Array, *, kernel: int | Pair = 2, stride: Any = None, padding: Padding = "valid", ceil: bool = False
) -> Recorded:
    """The largest pixel of each window, of equal pixels the first. ceil: the last window may hang over the edge."""
    size, kernel, stride, pads, k = _pool_settings(x, kernel, stride, padding)
    out, place = k.max_pool(x, kernel=kernel, stride=stride, pads=pads, ceil=ceil)
    return out, (lambda g: k.max_pool_gx(g, place, size=size, kernel=kernel, stride=stride, pads=pads),)


@op
def avg_pool(
    x: Array, *, kernel: int | Pair = 2, stride: Any = None, padding: Padding = "valid", count_padding: bool = True
) -> Recorded:
    """The mean of each window. count_padding: pixels outside the image count as zeros, else they do not count."""
    size, kernel, stride, pads, k = _pool_settings(x, kernel, stride, padding)
    settings = dict(kernel=kernel, stride=stride, pads=pads, count_padding=count_padding)
    return k.avg_pool(x, **settings), (lambda g: k.avg_pool_gx(g, size=size, **settings),)


def _pool_settings(x: Any, kernel: int | Pair, stride: int | Pair | None, padding: Padding) -> tuple[Any, ...]:
    """(size, kernel, stride, pads, kernels), all checked."""
    if x.ndim != 4:
        raise ValueError(f"pooling takes x (N, H, W, C), got {x.shape}.")
    kernel = pair(kernel)
    stride = kernel if stride is None else pair(stride)
    pads = resolve_padding(padding, x.shape[1:3], kernel, stride)
    if any(p >= k for side, k in zip(pads, kernel) for p in side):
        raise ValueError(f"padding {pads} is as wide as the window {kernel}: some windows would have no pixel.")
    if kernel[0] * kernel[1] > 256:
        raise ValueError(f"a pooling window of {kernel} is too large: at most 256 pixels.")
    return x.shape[1:3], kernel, stride, pads, kernels(x)


@op
def global_avg_pool(x: Array) -> Recorded:
    """The mean over all pixels: (N, H, W, C) -> (N, C)."""
    N, H, W, C = x.shape

    def vjp(g: Array) -> Array:
        gx = np.empty_like(g, shape=(N, H, W, C))  # a real array: most kernels would copy a broadcast view
        gx[...] = g.reshape(N, 1, 1, C) / (H * W)
        return gx

    return x.mean(axis=(1, 2)), (vjp,)
