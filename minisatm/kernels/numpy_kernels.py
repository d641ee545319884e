"""Convolution, pooling, batch norm and cross-entropy on NumPy arrays, channels last.

Each forward kernel has a twin of plain loops in naive.py, and each gradient is held against its forward as the adjoint.
No tape here: arrays and settings in, arrays out; inputs are only read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

Array = np.ndarray[Any, Any]
Pair = tuple[int, int]
Pads = tuple[Pair, Pair]  # ((top, bottom), (left, right))

COLUMN_BYTES = 2**22  # columns stay in the cache from the copy to the product (measured: 1 to 8 MB do about as well)
ROW = 1024  # elements: shorter rows cost NumPy more in loop overhead than in arithmetic


def output_size(n: int, kernel: int, stride: int, pads: Pair, ceil: bool = False) -> int:
    """How many windows fit; with `ceil`, a last one may hang over the edge if it starts inside."""
    room = n + sum(pads) - kernel
    size = (-(-room // stride) if ceil else room // stride) + 1
    if ceil and (size - 1) * stride >= n + pads[0]:
        size -= 1
    if room < 0 or size < 1:
        raise ValueError(f"a window of {kernel} does not fit into {n} pixels with padding {pads}; use a larger image.")
    return size


# --- convolution: im2col in blocks that fit the cache, one matrix product each -----------------------------------


def conv2d(x: Array, w: Array, b: Array | None, *, stride: Pair, pads: Pads) -> Array:
    """out[n, p, q, f] = sum_ijc x[n, p*sh + i - top, q*sw + j - left, c] w[i, j, c, f] + b[f]; zeros outside x.

    x (N, H, W, C), w (kh, kw, C, F), b (F,) or None -> (N, P, Q, F).
    """
    *kernel, _, F = w.shape
    P, Q = (output_size(n, k, s, p) for n, k, s, p in zip(x.shape[1:3], kernel, stride, pads))
    out = np.empty((len(x), P, Q, F), x.dtype)
    r = neighbours(kernel, F, Q)
    flat = _side_by_side(w, r, stride[1]).reshape(-1, r * F)
    for images, rows, columns in column_blocks(x, kernel, stride, pads, (P, Q), r):
        block = out[images, rows].reshape(-1, r * F)
        np.matmul(columns, flat, out=block)  # (M, kh*kw*C) @ (kh*kw*C, F) -> (M, F), for r = 1
        if b is not None:
            block = block.reshape(-1, F)
            long, tiled = _rows(block), _tile(block, b)
            np.add(long, tiled, out=long)
    return out


def conv2d_gw(x: Array, g: Array, *, kernel: Pair, stride: Pair, pads: Pads) -> Array:
    """Gradient of conv2d to w: the columns, built again block by block, times g (N, P, Q, F) -> (kh, kw, C, F)."""
    C, F = x.shape[3], g.shape[3]
    r = neighbours(kernel, F, g.shape[2])
    gw: Any = 0
    for images, rows, columns in column_blocks(x, kernel, stride, pads, g.shape[1:3], r):
        gw = gw + columns.T @ g[images, rows].reshape(-1, r * F)  # (kh*kw*C, M) @ (M, F) -> (kh*kw*C, F), for r = 1
    wide = gw.reshape(kernel[0], -1, C, r, F)
    return sum(wide[:, i * stride[1] : i * stride[1] + kernel[1], :, i] for i in range(r))


def neighbours(kernel: Sequence[int], filters: int, columns: int) -> int:
    """How many neighbouring output pixels one row of columns makes: r = 4, 2 or 1.

    r pixels of F filters are one pixel of r * F filters, under a kernel r - 1 strides wider that moves r strides at a
    time. That multiplies some zeros, but copies fewer and longer runs and makes a product that is less narrow: worth it
    up to 4 filters for r = 4 and up to 16 for r = 2 (measured on 3x3 and 7x7 kernels), where r divides the row.
    """
    most = 1 if tuple(kernel) == (1, 1) else 4 if filters <= 4 else 2 if filters <= 16 else 1
    return next(r for r in (4, 2, 1) if r <= most and columns % r == 0)


def _side_by_side(w: Array, r: int, stride: int) -> Array:
    """The kernel for r neighbouring pixels at once: (kh, kw, C, F) -> (kh, kw + (r-1)*stride, C, r, F)."""
    kh, kw, C, F = w.shape
    wide = np.zeros((kh, kw + (r - 1) * stride, C, r, F), w.dtype)
    for i in range(r):
        wide[:, i * stride : i * stride + kw, :, i] = w
    return wide


def conv2d_gx(g: Array, w: Array, *, size: Pair, stride: Pair, pads: Pads) -> Array:
    """Gradient of conv2d to x: g (N, P, Q, F), w (kh, kw, C, F) -> (N, H, W, C), with size = (H, W).

    With stride s a pixel meets only the taps i = row + top (mod s): each of the s*s classes of pixels is an ordinary
    stride-1 convolution of g with those taps, flipped. For s = 1 that is the one convolution with the flipped kernel.
    """
    classes = [[_phase(r, s, k, n, p, m) for r in range(s)]
               for s, k, n, p, m in zip(stride, w.shape[:2], size, pads, g.shape[1:3])]  # fmt: skip
    if stride == (1, 1):
        (_, _, top), (_, _, left) = classes[0][0], classes[1][0]
        return _correlate_flipped(g, w, top, left)
    gx = np.zeros((len(g), *size, w.shape[2]), g.dtype)
    for r, (first_row, count_rows, top) in enumerate(classes[0]):
        for c, (first_column, count_columns, left) in enumerate(classes[1]):
            taps = w[r :: stride[0], c :: stride[1]]
            if taps.size and count_rows > 0 and count_columns > 0:
                gx[:, first_row :: stride[0], first_column :: stride[1]] = _correlate_flipped(g, taps, top, left)
    return gx


def _phase(r: int, s: int, k: int, n: int, pads: Pair, m: int) -> tuple[int, int, Pair]:
    """For the pixels whose padded place is r (mod s): the first one, how many, and the padding (or cropping) of g."""
    first, last = -((r - pads[0]) // s), (pads[0] + n - 1 - r) // s  # they stand at s*q + r, q = first..last
    taps = -(-(k - r) // s)
    return s * first + r - pads[0], last - first + 1, (taps - 1 - first, last + 1 - m)


def _correlate_flipped(g: Array, w: Array, top: Pair, left: Pair) -> Array:
    (top_crop, bottom_crop), (left_crop, right_crop) = ((max(-lo, 0), max(-hi, 0)) for lo, hi in (top, left))
    g = g[:, top_crop : g.shape[1] - bottom_crop, left_crop : g.shape[2] - right_crop]
    pads = ((max(top[0], 0), max(top[1], 0)), (max(left[0], 0), max(left[1], 0)))
    flipped = np.ascontiguousarray(w[::-1, ::-1].swapaxes(2, 3))  # (kh, kw, F, C)
    return conv2d(g, flipped, None, stride=(1, 1), pads=pads)


def column_blocks(
    x: Array, kernel: Sequence[int], stride: Pair, pads: Pads, out: tuple[int, ...], r: int = 1
) -> Iterator[tuple[slice, slice, Array]]:
    """Yield (images, output rows, columns): a few images at a time, or a few rows of one, so that columns fit a cache.

    columns (M, kh*kw*C) has one row per output pixel of the block, or per r neighbouring ones, under the wider kernel.
    It is one buffer, overwritten by the next block: the whole im2col matrix (3.7 GB for VGG16's conv1_2 at batch 32)
    never exists.
    """
    (N, _, _, C), (kh, kw), (sh, sw), (P, Q) = x.shape, kernel, stride, out
    kw, sw, Q = kw + (r - 1) * sw, r * sw, Q // r
    if kh == kw == sh == sw == 1 and not any(map(sum, pads)):
        yield slice(0, N), slice(0, P), x.reshape(-1, C)
        return
    row_bytes = Q * kh * kw * C * x.itemsize
    images = max(1, min(N, COLUMN_BYTES // (row_bytes * P)))
    rows = P if images > 1 else max(1, min(P, COLUMN_BYTES // row_bytes))
    buffer = np.empty((images * rows * Q, kh * kw * C), x.dtype)
    framed = _Frame(x, images, pads)
    for n in range(0, N, images):
        m = min(images, N - n)
        image = framed.block(n, m)
        bn, bh, bw, _ = image.strides
        bc = image.itemsize  # of an axis of length one (a grey image's channel) NumPy may give any stride
        for p in range(0, P, rows):
            k = min(rows, P - p)
            # (m, k, Q, kh, kw*C): a kernel row of kw pixels by C channels lies contiguous in the image
            windows = as_strided(image[:, p * sh :], (m, k, Q, kh, kw * C), (bn, sh * bh, sw * bw, bh, bc))
            columns = buffer[: m * k * Q]
            np.copyto(columns.reshape(m, k, Q, kh, kw * C), windows)
            yield slice(n, n + m), slice(p, p + k), columns


class _Frame:
    """A few images at a time inside a frame of zeros: the frame is written once, the images block by block."""

    def __init__(self, x: Array, images: int, pads: Pads) -> None:
        (self.top, bottom), (self.left, right) = pads
        self.x = x
        self.needed = bool(self.top or bottom or self.left or right) or not x.flags.c_contiguous
        if self.needed:
            _, H, W, C = x.shape
            self.buffer = np.zeros((images, self.top + H + bottom, self.left + W + right, C), x.dtype)

    def block(self, n: int, m: int) -> Array:
        if not self.needed:
            return self.x[n : n + m]
        H, W = self.x.shape[1:3]
        self.buffer[:m, self.top : self.top + H, self.left : self.left + W] = self.x[n : n + m]
        return self.buffer[:m]


# --- pooling -----------------------------------------------------------------------------------------------------


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


def _crop(x: Array, pads: Pads) -> Array:
    (top, bottom), (left, right) = pads
    return x[:, top : x.shape[1] - bottom, left : x.shape[2] - right]


def max_pool(x: Array, *, kernel: Pair, stride: Pair, pads: Pads, ceil: bool) -> tuple[Array, Array]:
    """The largest pixel of each window, and which place of the window held it (uint8): (N, P, Q, C) both.

    Padding is minus infinity; of equal pixels the first in row order counts.
    """
    H, W = x.shape[1:3]
    out = tuple(output_size(n, k, s, p, ceil) for n, k, s, p in zip((H, W), kernel, stride, pads))
    pads = _overhang((H, W), kernel, stride, pads, out)
    if any(map(sum, pads)):
        x = np.pad(x, ((0, 0), *pads, (0, 0)), constant_values=-np.inf)
    views = _windows(x, kernel, stride, out)
    best = next(views).copy()
    place = np.zeros(best.shape, np.uint8)
    for k, view in enumerate(views, 1):
        # as arithmetic, place = max(place, k * better): a masked copy stumbles over random masks
        np.maximum(place, (view > best).view(np.uint8) * np.uint8(k), out=place)
        np.maximum(best, view, out=best)
    return best, place


def max_pool_gx(g: Array, place: Array, *, size: Pair, kernel: Pair, stride: Pair, pads: Pads) -> Array:
    """Gradient of max_pool to x: each g goes to the pixel that was the largest; (N, P, Q, C) -> (N, H, W, C)."""
    pads = _overhang(size, kernel, stride, pads, g.shape[1:3])
    padded = [n + sum(p) for n, p in zip(size, pads)]
    apart = stride[0] >= kernel[0] and stride[1] >= kernel[1]  # no pixel lies in two windows
    gx = np.zeros((len(g), *padded, g.shape[3]), g.dtype)
    for k, view in enumerate(_windows(gx, kernel, stride, g.shape[1:3])):
        if apart:
            np.multiply(g, place == k, out=view)
        else:
            view += g * (place == k)
    return _crop(gx, pads)


def avg_pool(x: Array, *, kernel: Pair, stride: Pair, pads: Pads, count_padding: bool) -> Array:
    """The mean of each window (N, P, Q, C); `count_padding`: do pixels outside the image count as zeros?"""
    out = tuple(output_size(n, k, s, p) for n, k, s, p in zip(x.shape[1:3], kernel, stride, pads))
    share = _share(x.shape[1:3], kernel, stride, pads, out, count_padding, x.dtype)
    if any(map(sum, pads)):
        x = np.pad(x, ((0, 0), *pads, (0, 0)))
    views = _windows(x, kernel, stride, out)
    total = next(views).copy()
    for view in views:
        total += view
    total *= share
    return total


def avg_pool_gx(g: Array, *, size: Pair, kernel: Pair, stride: Pair, pads: Pads, count_padding: bool) -> Array:
    """Gradient of avg_pool to x: g spread evenly over each window; (N, P, Q, C) -> (N, H, W, C)."""
    g = g * _share(size, kernel, stride, pads, g.shape[1:3], count_padding, g.dtype)
    gx = np.zeros((len(g), *(n + sum(p) for n, p in zip(size, pads)), g.shape[3]), g.dtype)
    for view in _windows(gx, kernel, stride, g.shape[1:3]):
        view += g
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


# --- batch norm: the last axis is the channel, all others are samples --------------------------------------------


def channel_sums(x: Array, y: Array | None = None) -> Array:
    """Sum over all but the last axis of x, or of x * y: (..., C) -> (C,)."""
    C = x.shape[-1]
    long = _rows(x)
    if y is None:
        total = np.ones(len(long), x.dtype) @ long  # a matrix product: BLAS sums faster than NumPy
    else:
        total = np.einsum("ij,ij->j", long, _rows(y))
    return total.reshape(-1, C).sum(axis=0)


def batch_norm_train(x: Array, gamma: Array, beta: Array, *, eps: float) -> tuple[Array, Array, Array, Array, Array]:
    """Normalise each channel by its own mean and variance: (out, centred x, 1/std, mean, variance).

    The variance is the mean square of the centred values (two passes): right for means far larger than the spread.
    """
    n = x.size // x.shape[-1]
    mean = channel_sums(x) / n
    centred = per_channel(np.subtract, x, mean)
    variance = channel_sums(centred, centred) / n
    inverse = 1 / np.sqrt(variance + eps)
    return scale_shift(centred, inverse * gamma, beta), centred, inverse, mean, variance


def scale_shift(x: Array, scale: Array, shift: Array) -> Array:
    """x * scale + shift per channel: (..., C), (C,), (C,) -> (..., C)."""
    out = per_channel(np.multiply, x, scale)
    long = _rows(out)
    np.add(long, _tile(out, shift), out=long)
    return out


def batch_norm_train_gx(g: Array, centred: Array, inverse: Array, gamma: Array, g_sum: Array, gx_sum: Array) -> Array:
    """Gradient of batch_norm_train to x, given sum(g) and sum(g * centred) per channel.

    gamma/std * (g - mean(g) - centred * mean(g * centred) / std^2): the second term is the mean's path, the third the
    variance's.
    """
    n = g.size // g.shape[-1]
    out = per_channel(np.multiply, centred, -inverse * inverse * gx_sum / n)
    np.add(out, g, out=out)
    long = _rows(out)
    np.subtract(long, _tile(out, g_sum / n), out=long)
    np.multiply(long, _tile(out, gamma * inverse), out=long)
    return out


def per_channel(ufunc: Any, x: Array, vector: Array) -> Array:
    """ufunc(x, vector) with the vector along the last axis: (..., C), (C,) -> (..., C)."""
    return ufunc(_rows(x), _tile(x, vector)).reshape(x.shape)


@cache
def _fold(C: int, pixels: int) -> int:
    """How many pixels to lay side by side, so that NumPy's inner loop is long however few the channels."""
    fold = 1
    while fold * C < ROW and pixels % (2 * fold) == 0:
        fold *= 2
    return fold


def _rows(x: Array) -> Array:
    """x as a matrix whose rows hold several pixels: (..., C) -> (pixels / fold, fold * C), a view where x allows it."""
    C = x.shape[-1]
    return x.reshape(-1, _fold(C, x.size // C) * C)


def _tile(x: Array, vector: Array) -> Array:
    """The vector (C,) repeated to fit the rows of _rows(x)."""
    fold = _fold(len(vector), x.size // len(vector))
    return vector if fold == 1 else np.concatenate((vector,) * fold)


# --- loss --------------------------------------------------------------------------------------------------------


def softmax_cross_entropy(logits: Array, labels: Array) -> tuple[Array, Array]:
    """-sum_c labels_c log softmax(logits)_c per row, and softmax(logits): (N, C), (N, C) -> (N,), (N, C).

    The row's maximum is taken off first, so logits of 1e4 neither overflow nor lose the loss.
    """
    shifted = logits - logits.max(axis=1, keepdims=True)
    exponentials = np.exp(shifted)
    total = exponentials.sum(axis=1, keepdims=True)
    loss = (labels * (np.log(total) - shifted)).sum(axis=1)
    return loss, exponentials / total
