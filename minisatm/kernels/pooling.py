"""The pooling kernels of plain.py, a few images at a time, on all free cores."""

from __future__ import annotations

import numpy as np

from .blocks import on_rows
from .plain import Array, Pads, Pair, crop, output_size, pad, pixels, taps


def _overhang(size: Pair, kernel: Pair, stride: Pair, pads: Pads, out: Pair) -> Pads:
    """The padding, enlarged at the bottom and the right to what the last window needs (ceil)."""
    more = [max(0, (m - 1) * s + k - n - sum(p)) for n, k, s, p, m in zip(size, kernel, stride, pads, out)]
    return (pads[0][0], pads[0][1] + more[0]), (pads[1][0], pads[1][1] + more[1])


def _padded(x: Array, pads: Pads, value: float) -> Array:
    """pad(x, pads, value), or x itself where there is no padding."""
    return pad(x, pads, value) if any(map(sum, pads)) else x


def max_pool(x: Array, *, kernel: Pair, stride: Pair, pads: Pads, ceil: bool) -> tuple[Array, Array]:
    """plain.max_pool: the largest pixel of each window and its tap's number, (N, P, Q, C)."""
    size, N, C = x.shape[1:3], len(x), x.shape[3]
    out = output_size(size, kernel, stride, pads, ceil)
    pads = _overhang(size, kernel, stride, pads, out)
    best, place = np.empty((N, *out, C), x.dtype), np.zeros((N, *out, C), np.uint8)

    def part(images: slice) -> None:
        largest, where = best[images], place[images]
        views = taps(_padded(x[images], pads, -np.inf), kernel, stride, out)
        largest[...] = next(views)[2]
        for k, (_, _, view) in enumerate(views, 1):
            # where = max(where, k * better), since a masked copy is slow: the processor cannot predict a random mask
            better = (view > largest).view(np.uint8)
            better *= np.uint8(k)
            np.maximum(where, better, out=where)
            np.maximum(largest, view, out=largest)

    on_rows(part, x, 4)
    return best, place


def max_pool_gx(g: Array, place: Array, *, size: Pair, kernel: Pair, stride: Pair, pads: Pads) -> Array:
    """plain.max_pool_gx: each g goes to the pixel that was the largest of its window, (N, P, Q, C) -> (N, H, W, C)."""
    out = g.shape[1:3]
    pads = _overhang(size, kernel, stride, pads, out)
    padded = tuple(n + sum(p) for n, p in zip(size, pads))
    once = kernel == stride and padded == tuple(k * m for k, m in zip(kernel, out))  # each pixel is in one window
    gx = (np.empty if once else np.zeros)((len(g), *padded, g.shape[3]), g.dtype)

    def part(images: slice) -> None:
        for k, (_, _, view) in enumerate(taps(gx[images], kernel, stride, out)):
            if once:
                np.multiply(g[images], place[images] == k, out=view)
            else:
                view += g[images] * (place[images] == k)

    on_rows(part, gx, 4)
    return crop(gx, pads, size)


def avg_pool(x: Array, *, kernel: Pair, stride: Pair, pads: Pads, count_padding: bool) -> Array:
    """plain.avg_pool: the mean of each window, (N, P, Q, C)."""
    out = output_size(x.shape[1:3], kernel, stride, pads)
    share = (1 / pixels(x.shape[1:3], kernel, stride, pads, out, count_padding, np.float64)).astype(x.dtype)
    total = np.empty((len(x), *out, x.shape[3]), x.dtype)

    def part(images: slice) -> None:
        views = taps(_padded(x[images], pads, 0), kernel, stride, out)
        total[images] = next(views)[2]
        for *_, view in views:
            total[images] += view
        total[images] *= share

    on_rows(part, x, 4)
    return total


def avg_pool_gx(g: Array, *, size: Pair, kernel: Pair, stride: Pair, pads: Pads, count_padding: bool) -> Array:
    """plain.avg_pool_gx: each g is shared equally by the pixels of its window, (N, P, Q, C) -> (N, H, W, C)."""
    out = g.shape[1:3]
    share = (1 / pixels(size, kernel, stride, pads, out, count_padding, np.float64)).astype(g.dtype)
    gx = np.zeros((len(g), *(n + sum(p) for n, p in zip(size, pads)), g.shape[3]), g.dtype)

    def part(images: slice) -> None:
        spread = g[images] * share
        for *_, view in taps(gx[images], kernel, stride, out):
            view += spread

    on_rows(part, gx, 4)
    return crop(gx, pads, size)
