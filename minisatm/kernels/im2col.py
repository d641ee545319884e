"""Convolution by im2col: a matrix product of the image's columns and the weights, in blocks that fit the cache.

A row of the matrix "columns" is the window of one output pixel, (kh*kw*C,). It serves every kernel, stride and dtype.
For a 1x1 kernel of stride 1 the image itself is the matrix.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from ..parallel import on_cores, shares
from .blocks import CACHE, Block, add_up, finish, frames, image_blocks, largest
from .plain import Array, Pads, Pair, crop, output_size, taps

COLUMN_BYTES = 2**22  # small enough to stay in the cache until the product (measured: 1 to 8 MB are about equal)


def conv2d(x: Array, w: Array, b: Array | None, *, stride: Pair, pads: Pads, relu: bool = False) -> Array:
    """plain.conv2d: x (N, H, W, C), w (kh, kw, C, F), b (F,) or None -> (N, P, Q, F)."""
    kernel, F = w.shape[:2], w.shape[3]
    P, Q = output_size(x.shape[1:3], kernel, stride, pads)
    out = np.empty((len(x), P, Q, F), x.dtype)
    r = neighbours(kernel, F, Q)
    flat = _side_by_side(w, r, stride[1]).reshape(-1, r * F)

    def part(blocks: Sequence[Block]) -> None:
        for images, rows, columns in column_blocks(x, kernel, stride, pads, Q, r, blocks):
            block = out[images, rows].reshape(-1, r * F)
            np.matmul(columns, flat, out=block)  # (M, kh*kw*C) @ (kh*kw*C, F) -> (M, F), for r = 1
            finish(block.reshape(-1, F), b, relu)

    on_cores(part, shares(blocks_of(x, kernel, (P, Q), F)))
    return out


def conv2d_gw(x: Array, g: Array, *, kernel: Pair, stride: Pair, pads: Pads) -> Array:
    """plain.conv2d_gw: columns^T @ g, block by block; x (N, H, W, C), g (N, P, Q, F) -> (kh, kw, C, F).

    The columns are built again here: to keep them from the forward pass would take too much memory.
    """
    (P, Q, F), C = g.shape[1:], x.shape[3]
    r = neighbours(kernel, F, Q)
    patch = kernel[0] * (kernel[1] + (r - 1) * stride[1]) * C
    # make 1x1 blocks large (they have no columns that must fit the cache): each block adds a whole gw, which costs time
    least = 4 * C * F / (C + F) if tuple(kernel) == (1, 1) else 0

    def part(blocks: Sequence[Block]) -> Array:
        gw, product = np.zeros((2, patch, r * F), x.dtype)
        for images, rows, columns in column_blocks(x, kernel, stride, pads, Q, r, blocks):
            part_g = g[images, rows].reshape(-1, r * F)
            gw += np.matmul(columns.T, part_g, out=product)  # (kh*kw*C, M) @ (M, F) -> (kh*kw*C, F), for r = 1
        return gw

    gw = add_up(on_cores(part, shares(blocks_of(x, kernel, (P, Q), F, least))))
    wide = gw.reshape(kernel[0], -1, C, r, F)
    return add_up([wide[:, i * stride[1] : i * stride[1] + kernel[1], :, i] for i in range(r)])


def neighbours(kernel: Sequence[int], filters: int, columns: int) -> int:
    """How many neighbouring output pixels one row of columns gives: r = 4, 2 or 1.

    r pixels of F filters are one pixel of r * F filters, whose kernel is r - 1 strides wider and moves r strides at a
    time. This multiplies some zeros, but the copies are longer and the product is less narrow. It pays up to 4 filters
    for r = 4 and up to 16 for r = 2 (measured on 3x3 and 7x7 kernels), where r divides the number of output columns.
    """
    most = 1 if tuple(kernel) == (1, 1) else 4 if filters <= 4 else 2 if filters <= 16 else 1
    return next(r for r in (4, 2, 1) if r <= most and columns % r == 0)


def _side_by_side(w: Array, r: int, stride: int) -> Array:
    """The weights for r neighbouring pixels at once: (kh, kw, C, F) -> (kh, kw + (r-1)*stride, C, r, F)."""
    if r == 1:
        return w
    kh, kw, C, F = w.shape
    wide = np.zeros((kh, kw + (r - 1) * stride, C, r, F), w.dtype)
    for i in range(r):
        wide[:, i * stride : i * stride + kw, :, i] = w
    return wide


def conv2d_gx(g: Array, w: Array, *, size: Pair, stride: Pair, pads: Pads, conv: Any = conv2d) -> Array:
    """plain.conv2d_gx: g (N, P, Q, F), w (kh, kw, C, F) -> (N, H, W, C), size = (H, W).

    For stride 1 it is a convolution of g with the flipped kernel. For stride s a pixel in row h of the image lies only
    under the taps i with i = h + top (mod s): so there are s * s classes of pixels, and the gradient to each class is a
    convolution of stride 1 of g with the taps of that class, flipped. conv is the function that convolves.
    """
    kh, kw, C, F = w.shape
    few = kh * kw > 1 and F > 2 * C and (C == 1 or C >= 16)
    if few and 0 < g[:1].nbytes <= CACHE:  # measured: it takes 0.2 to 0.7 of the time there
        return conv2d_gx_by_taps(g, w, size=size, stride=stride, pads=pads)
    axes = zip(stride, w.shape[:2], size, pads, g.shape[1:3])
    rows, columns = ([_phase(r, s, k, n, p, m) for r in range(s)] for s, k, n, p, m in axes)
    if stride == (1, 1):
        return _correlate_flipped(g, w, rows[0][2], columns[0][2], conv)
    gx = np.zeros((len(g), *size, w.shape[2]), g.dtype)
    for r, (first_row, count_rows, top) in enumerate(rows):
        for c, (first_column, count_columns, left) in enumerate(columns):
            part = w[r :: stride[0], c :: stride[1]]
            if part.size and count_rows > 0 and count_columns > 0:
                gx[:, first_row :: stride[0], first_column :: stride[1]] = _correlate_flipped(g, part, top, left, conv)
    return gx


def conv2d_gx_by_taps(g: Array, w: Array, *, size: Pair, stride: Pair, pads: Pads) -> Array:
    """plain.conv2d_gx tap by tap, as there, but in blocks.

    For few channels and many filters: there the columns of g would be far larger than g, which stays in the cache.
    """
    (kh, kw, C, F), (N, P, Q, _), ((top, bottom), (left, right)) = w.shape, g.shape, pads
    flipped = np.ascontiguousarray(w.swapaxes(2, 3))
    gx = np.empty((N, *size, C), g.dtype)

    def part(blocks: Sequence[Block]) -> None:
        for images, _ in blocks:
            part_g = g[images]
            padded = np.zeros((len(part_g), size[0] + top + bottom, size[1] + left + right, C), g.dtype)
            for i, j, view in taps(padded, (kh, kw), stride, (P, Q)):
                view += np.matmul(part_g.reshape(-1, F), flipped[i, j]).reshape(view.shape)  # (n*P*Q, F) @ (F, C)
            gx[images] = crop(padded, pads, size)

    on_cores(part, shares(image_blocks(N, 1, 4 * CACHE / g[:1].nbytes, g.size * kh * kw * C)))
    return gx


def _phase(r: int, s: int, k: int, n: int, pads: Pair, m: int) -> tuple[int, int, Pair]:
    """Along one axis, of the pixels whose padded place is r (mod s): the first, how many, and the padding that g needs.

    A negative padding means that g is cropped.
    """
    first, last = -((r - pads[0]) // s), (pads[0] + n - 1 - r) // s  # their padded places are s*q + r, q = first..last
    count = -(-(k - r) // s)  # taps of this class
    return s * first + r - pads[0], last - first + 1, (count - 1 - first, last + 1 - m)


def _correlate_flipped(g: Array, w: Array, top: Pair, left: Pair, conv: Any) -> Array:
    """A convolution of stride 1 of g with w flipped; where the padding is negative, g is cropped first."""
    (top_crop, bottom_crop), (left_crop, right_crop) = ((max(-lo, 0), max(-hi, 0)) for lo, hi in (top, left))
    g = g[:, top_crop : g.shape[1] - bottom_crop, left_crop : g.shape[2] - right_crop]
    pads = ((max(top[0], 0), max(top[1], 0)), (max(left[0], 0), max(left[1], 0)))
    return conv(g, w[::-1, ::-1].swapaxes(2, 3), None, stride=(1, 1), pads=pads)  # the kernel is (kh, kw, F, C)


def blocks_of(x: Array, kernel: Sequence[int], out: tuple[int, ...], filters: int, least: float = 0) -> list[Block]:
    """Blocks whose columns fit COLUMN_BYTES: rows of one image, or several small images. least: pixels in a block."""
    row = out[1] * kernel[0] * kernel[1] * x.shape[3]  # numbers in the columns of one row of the output
    most = max(COLUMN_BYTES / (row * x.itemsize), least / out[1])
    return image_blocks(len(x), out[0], most, len(x) * out[0] * row * filters)


def column_blocks(
    x: Array, kernel: Sequence[int], stride: Pair, pads: Pads, Q: int, r: int, blocks: Sequence[Block]
) -> Iterator[tuple[slice, slice, Array]]:
    """Yield (images, output rows, columns) for these blocks of the output, which is Q pixels wide.

    columns (M, kh*kw*C) has a row for each output pixel of the block, or for each r neighbouring pixels (see
    neighbours). It is one buffer that the next block overwrites: the matrix of the whole batch, 3.7 GB for VGG16's
    conv1_2 at batch 32, is never made.
    """
    C, (kh, kw), (sh, sw) = x.shape[3], kernel, stride
    if kh == kw == sh == sw == 1 and not any(map(sum, pads)):
        for images, rows in blocks:
            yield images, rows, x[images, rows].reshape(-1, C)
        return
    kw, sw, Q = kw + (r - 1) * sw, r * sw, Q // r
    buffer = np.empty((math.prod(largest(blocks)) * Q, kh * kw * C), x.dtype)
    for images, rows, image in frames(x, blocks, sh, kh, pads[0][0], pads[1][0], x.shape[2] + sum(pads[1])):
        bn, bh, bw, _ = image.strides
        bc = image.itemsize  # not image.strides[3]: for an axis of length 1 (a grey image) NumPy may give any stride
        # (m, k, Q, kh, kw*C): a row of the window, kw pixels of C channels, is contiguous in the image
        shape = (images.stop - images.start, rows.stop - rows.start, Q, kh, kw * C)
        columns = buffer[: shape[0] * shape[1] * Q]
        np.copyto(columns.reshape(shape), as_strided(image, shape, (bn, sh * bh, sw * bw, bh, bc)))
        yield images, rows, columns
