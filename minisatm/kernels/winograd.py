"""3x3 convolution of stride 1 by Winograd's minimal filtering, F(4x4, 3x3): Lavin and Gray 2016, Section 4.

A 4x4 tile of the output depends on 6x6 pixels of the input. For each tile, channel and filter the definition needs 144
products of two numbers. After a transform of the tile (with B) and of the kernel (with G) 36 are enough:

    out = A^T [ (G w G^T) * (B^T x B) ] A

With the sum over channels these are 36 matrix products. The three transforms are matrix products too: a 6x6 tile is a
vector of 36 numbers, and B^T x B is a 36x36 matrix times this vector. The rounding error is about ten times im2col's
(1e-5 in float32).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from ..parallel import on_cores, shares
from .blocks import Block, add_up, finish, frames, image_blocks, largest, slices
from .plain import Array, Pads, Pair

TILE = 4
BLOCK_BYTES = 2**20  # transformed input and output of a block of tiles (measured: 0.5 to 2 MB are about equal)

# of the interpolation points 0, 1, -1, 2, -2 and infinity
B = np.array([[4, 0, -5, 0, 1, 0], [0, -4, -4, 1, 1, 0], [0, 4, -4, -1, 1, 0],
              [0, -2, -1, 2, 1, 0], [0, 2, -1, -2, 1, 0], [0, 4, 0, -5, 0, 1]])  # fmt: skip
G = np.array([[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]) / 24
A = np.array([[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]])


@cache
def _both_sides(name: str, dtype: Any) -> Array:
    """The matrix of the transform t -> M t M^T on flattened tiles, for M = B (36, 36), G (36, 9) or A (16, 36)."""
    m = {"B": B, "G": G, "A": A}[name]
    return np.kron(m, m).astype(dtype)


def pays(out: tuple[int, ...], channels: int, filters: int) -> bool:
    """Does this algorithm multiply less than the definition, with its transforms of input and output?

    It does from about 24 channels and filters on, if the output's sides are about multiples of 4; then it is also
    faster (tests/benchmarks/ops.txt).
    """
    tiles = -(-out[0] // TILE) * -(-out[1] // TILE)
    winograd = 36 * tiles * (channels * filters + 36 * channels + 16 * filters)
    return winograd < 9 * out[0] * out[1] * channels * filters


def conv2d(x: Array, w: Array, b: Array | None, *, pads: Pads, relu: bool = False) -> Array:
    """plain.conv2d for a 3x3 kernel and stride 1: x (N, H, W, C), w (3, 3, C, F), b (F,) -> (N, P, Q, F)."""
    C, F = w.shape[2:]
    P, Q = (n + sum(p) - 2 for n, p in zip(x.shape[1:3], pads))
    out = np.empty((len(x), P, Q, F), x.dtype)
    u = _times(_both_sides("G", x.dtype), w.reshape(9, -1)).reshape(36, C, F)
    back = _both_sides("A", x.dtype)
    blocks = tile_blocks(len(x), (P, Q), C, F)

    def part(blocks: Sequence[Block]) -> None:
        product = np.empty((36, most_tiles(blocks, Q), F), x.dtype)
        tiles = np.empty((TILE * TILE, product[0].size), x.dtype)
        for images, rows, v in transformed_tiles(x, pads, Q, blocks):
            T = v.shape[1]
            m = np.matmul(v, u, out=product.reshape(-1)[: 36 * T * F].reshape(36, T, F))  # 36 (T, C) @ (C, F)
            if b is not None:
                m[7] += b  # the plane of the points (1, 1): its transform by A^T is a tile of ones
            y = np.matmul(back, m.reshape(36, -1), out=tiles.reshape(-1)[: 16 * T * F].reshape(16, -1))
            finish(y, None, relu)
            _put_tiles(y.reshape(TILE, TILE, images.stop - images.start, -1, -(-Q // TILE), F), out[images], rows)

    on_cores(part, shares(blocks))
    return out


def conv2d_gw(x: Array, g: Array, *, pads: Pads) -> Array:
    """plain.conv2d_gw for a 3x3 kernel and stride 1: x (N, H, W, C), g (N, P, Q, F) -> (3, 3, C, F).

    gw = G^T [ sum over tiles of (B^T x B) * (A g A^T) ] G, which is the adjoint of each step of conv2d.
    """
    (P, Q, F), C = g.shape[1:], x.shape[3]
    forth = np.ascontiguousarray(_both_sides("A", x.dtype).T)
    blocks = tile_blocks(len(x), (P, Q), C, F, longer=4)  # the product sums over T: a long sum is faster

    def part(blocks: Sequence[Block]) -> Array:
        total, product = np.empty((2, 36, C, F), x.dtype)
        gathered = _gathered(g, TILE, 0, 0, Q, blocks)
        for i, ((_, _, v), (_, _, tiles)) in enumerate(zip(transformed_tiles(x, pads, Q, blocks), gathered)):
            m = (forth @ tiles.reshape(16, -1)).reshape(36, -1, F)
            np.matmul(v.swapaxes(1, 2), m, out=product if i else total)  # 36 (C, T) @ (T, F) -> (C, F)
            if i:
                total += product
        return total

    total = add_up(on_cores(part, shares(blocks)))
    return _times(_both_sides("G", x.dtype).T, total.reshape(36, -1)).reshape(3, 3, C, F)


def _times(matrix: Array, flat: Array) -> Array:
    """matrix @ flat, (a, b) @ (b, n) -> (a, n), with the columns of flat divided among the cores."""
    out = np.empty((len(matrix), flat.shape[1]), flat.dtype)
    on_cores(lambda n: np.matmul(matrix, flat[:, n], out=out[:, n]), slices(flat.shape[1], flat.size))
    return out


def tile_blocks(images: int, out: Pair, channels: int, filters: int, longer: int = 1) -> list[Block]:
    """Blocks of images and rows of tiles, of about BLOCK_BYTES but not smaller than the weights.

    Each block reads all 36 matrices (C, F) of weights; with T tiles it writes 36 T (C + F) numbers. longer: so many
    times larger than the weights.
    """
    tiles = max(BLOCK_BYTES / (36 * 4 * (channels + filters)), longer * channels * filters / (channels + filters))
    down, across = (-(-n // TILE) for n in out)
    return image_blocks(images, down, max(1.0, tiles / across), 36 * images * down * across * channels * filters)


def most_tiles(blocks: Sequence[Block], Q: int) -> int:
    """The largest number of tiles in one of these blocks."""
    return math.prod(largest(blocks)) * -(-Q // TILE)


def transformed_tiles(x: Array, pads: Pads, Q: int, blocks: Sequence[Block]) -> Iterator[tuple[slice, slice, Array]]:
    """Yield (images, rows of tiles, B^T tile B of every 6x6 tile (36, T, C)); the next block overwrites the buffer."""
    C = x.shape[3]
    forth = _both_sides("B", x.dtype)
    buffer = np.empty(36 * most_tiles(blocks, Q) * C, x.dtype)
    for images, rows, tiles in _gathered(x, TILE + 2, pads[0][0], pads[1][0], Q, blocks):
        flat = tiles.reshape(36, -1)
        yield images, rows, np.matmul(forth, flat, out=buffer[: flat.size].reshape(flat.shape)).reshape(36, -1, C)


def _gathered(
    x: Array, side: int, top: int, left: int, Q: int, blocks: Sequence[Block]
) -> Iterator[tuple[slice, slice, Array]]:
    """Yield (images, rows of tiles, the tiles (side, side, T, C)); tiles start every 4 pixels, x is zero outside."""
    C, across = x.shape[3], -(-Q // TILE)
    buffer = np.empty(side * side * most_tiles(blocks, Q) * C, x.dtype)
    for images, rows, image in frames(x, blocks, TILE, side, top, left, TILE * (across - 1) + side):
        bn, bh, bw, _ = image.strides
        shape = (side, side, len(image), rows.stop - rows.start, across, C)
        tiles = buffer[: math.prod(shape)].reshape(shape)
        np.copyto(tiles, as_strided(image, shape, (bh, bw, bn, TILE * bh, TILE * bw, image.itemsize)))
        yield images, rows, tiles.reshape(side, side, -1, C)


def _put_tiles(y: Array, out: Array, rows: slice) -> None:
    """Copy the tiles y (4, 4, m, k, across, F) to these rows of the output (m, P, Q, F), without what hangs over."""
    _, _, m, k, across, F = y.shape
    P, Q = out.shape[1:3]
    into = out[:, TILE * rows.start : TILE * rows.stop]
    fits = into.shape[1] == TILE * k and TILE * across == Q
    whole = into if fits else np.empty((m, TILE * k, TILE * across, F), y.dtype)
    whole.reshape(m, k, TILE, across, TILE, F)[...] = y.transpose(2, 3, 0, 4, 1, 5)
    if not fits:
        into[...] = whole[:, : into.shape[1], :Q]
