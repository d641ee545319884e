"""Max and average pooling and their gradients, a few images at a time, on all free cores."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from .blocks import Array, Pads, Pair, on_images, output_size


def _windows(x: Array, kernel: Pair, stride: Pair, out: tuple[int, ...]) -> Iterator[Array]:
    """For each place in the window, row by row, the pixels of x (N, H, W, C) that stand there: views (N, P, Q, C)."""
    (kh, kw), (sh, sw), (P, Q) = kernel, stride, out
    for i in range(kh):
        for j in range(kw):
            yield x[:, i : i + sh * (P - 1) + 1 : sh, j : j + sw * (Q - 1) + 1 : sw]


def _overhang(size: Pair, kernel: Pair, stride: Pair, pads: Pads, out: tuple[int, ...]) -> Pads:
    """The padding with as much more below and to the right as the last window needs (ceil mode)."""
    more = [max(0, (m - 1) * s + k - n - sum(p)) for n, k, s, p, m in zip(size, kernel, stride, pads, out)]
    return (pads[0][0], pads[0][1] + more[0]), (pads[1][0], pads[1][1] + more[1])


def _pad(x: Array, pads: Pads, value: float) -> Array:
    return np.pad(x, ((0, 0), *pads, (0, 0)), constant_values=value) if any(map(sum, pads)) else x


def _crop(x: Array, pads: Pads) -> Array:
    (top, bottom), (left, right) = pads
    return x[:, top : x.shape[1] - bottom, left : x.shape[2] - right]


def max_pool(x: Array, *, kernel: Pair, stride: Pair, pads: Pads, ceil: bool) -> tuple[Array, Array]:
    """The largest pixel of each window, and which place of the window held it (uint8): (N, P, Q, C) both.

    Padding is minus infinity; of equal pixels the first in row order counts.
    """
    size, N, C = x.shape[1:3], len(x), x.shape[3]
    out = tuple(output_size(n, k, s, p, ceil) for n, k, s, p in zip(size, kernel, stride, pads))
    pads = _overhang(size, kernel, stride, pads, out)
    best, place = np.empty((N, *out, C), x.dtype), np.zeros((N, *out, C), np.uint8)

    def part(images: slice) -> None:
        largest, where = best[images], place[images]
        views = _windows(_pad(x[images], pads, -np.inf), kernel, stride, out)
        largest[...] = next(views)
        for k, view in enumerate(views, 1):
            # as arithmetic, where = max(where, k * better): a masked copy stumbles over random masks
            better = (view > largest).view(np.uint8)
            better *= np.uint8(k)
            np.maximum(where, better, out=where)
            np.maximum(largest, view, out=largest)

    on_images(part, x)
    return best, place


def max_pool_gx(g: Array, place: Array, *, size: Pair, kernel: Pair, stride: Pair, pads: Pads) -> Array:
    """Gradient of max_pool to x: each g goes to the pixel that was the largest; (N, P, Q, C) -> (N, H, W, C)."""
    out = g.shape[1:3]
    pads = _overhang(size, kernel, stride, pads, out)
    padded = tuple(n + sum(p) for n, p in zip(size, pads))
    once = kernel == stride and padded == tuple(k * m for k, m in zip(kernel, out))  # each pixel is in one window
    gx = (np.empty if once else np.zeros)((len(g), *padded, g.shape[3]), g.dtype)

    def part(images: slice) -> None:
        for k, view in enumerate(_windows(gx[images], kernel, stride, out)):
            if once:
                np.multiply(g[images], place[images] == k, out=view)
            else:
                view += g[images] * (place[images] == k)

    on_images(part, gx)
    return _crop(gx, pads)


def avg_pool(x: Array, *, kernel: Pair, stride: Pair, pads: Pads, count_padding: bool) -> Array:
    """The mean of each window (N, P, Q, C); `count_padding`: do pixels outside the image count as zeros?"""
    out = tuple(output_size(n, k, s, p) for n, k, s, p in zip(x.shape[1:3], kernel, stride, pads))
    share = _share(x.shape[1:3], kernel, stride, pads, out, count_padding, x.dtype)
    total = np.empty((len(x), *out, x.shape[3]), x.dtype)

    def part(images: slice) -> None:
        views = _windows(_pad(x[images], pads, 0), kernel, stride, out)
        total[images] = next(views)
        for view in views:
            total[images] += view
        total[images] *= share

    on_images(part, x)
    return total


def avg_pool_gx(g: Array, *, size: Pair, kernel: Pair, stride: Pair, pads: Pads, count_padding: bool) -> Array:
    """Gradient of avg_pool to x: g spread evenly over each window; (N, P, Q, C) -> (N, H, W, C)."""
    out = g.shape[1:3]
    share = _share(size, kernel, stride, pads, out, count_padding, g.dtype)
    gx = np.zeros((len(g), *(n + sum(p) for n, p in zip(size, pads)), g.shape[3]), g.dtype)

    def part(images: slice) -> None:
        spread = g[images] * share
        for view in _windows(gx[images], kernel, stride, out):
            view += spread

    on_images(part, gx)
    return _crop(gx, pads)


def _share(
    size: tuple[int, ...], kernel: Pair, stride: Pair, pads: Pads, out: tuple[int, ...], count_padding: bool, dtype: Any
) -> Array:
    """One over the number of pixels that count in each window: (P, Q, 1), or (1, 1, 1) where all are alike."""
    if count_padding or not any(map(sum, pads)):
        return np.full((1, 1, 1), 1 / (kernel[0] * kernel[1]), dtype)
    counts = []
    for n, k, s, (before, _), m in zip(size, kernel, stride, pads, out):
        start = np.arange(m) * s - before
        counts.append(np.minimum(start + k, n) - np.maximum(start, 0))
    return (1 / (counts[0][:, None, None] * counts[1][None, :, None])).astype(dtype)
