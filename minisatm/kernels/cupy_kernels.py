"""The kernels on CuPy arrays: the same names, arguments and results as in plain.py, which has the formulas.

The .cu files in this folder do the work. This file has the shapes of the launches, and the choice between our matrix
products and cuBLAS. Nothing here waits for the GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import cupy
import numpy as np
from cupy._core import _routines_linalg as linalg

from .launch import each, launch
from .plain import Array, Pads, Pair, output_size

cublas = True  # False: all matrix products by the .cu files, which a reader can follow
tf32 = False  # True: convolutions by cuBLAS round their factors to TF32, as PyTorch's do by default

COLUMN_BYTES = 2**26  # the largest size of the columns that exist at one time
WORTH_COLUMNS = 32  # from so many filters on, columns and cuBLAS are used
SIDE, TILE = 64, (256,)  # a block in tile.cuh: 64 x 64 outputs, 256 threads
LANES, SQUARE = 32, (32, 32)  # a block in columns.cuh: 32 channels, 32 x 32 threads
CHUNK_ROWS, CHUNKS = 512, 256  # channel sums: at least 512 rows in a block, at most 256 blocks
PIXELS = 4096  # at least so many pixels in a block of conv2d_gw


def _empty(shape: tuple[int, ...], like: Array) -> Array:
    return cupy.empty(shape, like.dtype)


def _whole(*arrays: Array | None) -> list[Any]:
    """The arrays as contiguous ones, as the kernels need them; only what is not contiguous is copied."""
    return [a if a is None else cupy.ascontiguousarray(a) for a in arrays]


def by_columns(filters: int) -> bool:
    """Are columns and cuBLAS faster than conv2d.cu, which makes no columns? Probably from 32 filters on.

    Each number of a column is written and read once more (8 bytes), and is used in 2 * filters operations. With 4 TB/s
    of memory, 20 TFLOP/s for conv2d.cu and 50 for cuBLAS, columns pay from about 30 filters on. These speeds are
    assumed, not measured: tests/benchmarks/gpu.py times both algorithms for each layer.
    """
    return cublas and filters >= WORTH_COLUMNS


def use_tf32(on: bool) -> None:
    """Convolutions in TF32 (True); or everything in float32 (False), whatever the variable CUPY_TF32 says."""
    global tf32
    tf32 = on
    linalg.set_compute_type(np.float32, linalg.COMPUTE_TYPE_DEFAULT)


def _product(a: Array, b: Array, out: Array | None = None) -> Array:
    """a @ b by cuBLAS, in TF32 if use_tf32 asked for it."""
    if not tf32 or a.dtype != np.float32:
        return cupy.matmul(a, b, out=out)
    linalg.set_compute_type(np.float32, linalg.COMPUTE_TYPE_TF32)
    try:
        return cupy.matmul(a, b, out=out)
    finally:
        linalg.set_compute_type(np.float32, linalg.COMPUTE_TYPE_DEFAULT)


def _is_dense(kernel: Pair, pads: Pads) -> bool:
    """Is it a 1x1 kernel? Then the image itself is the matrix of columns."""
    return cublas and tuple(kernel) == (1, 1) and not any(map(sum, pads))


def _images(x: Array, P: int, Q: int, K: int) -> list[slice]:
    """Cut the batch so that the columns of each part fit COLUMN_BYTES; a part has at least one image."""
    step = max(1, COLUMN_BYTES // (P * Q * K * x.dtype.itemsize))
    return [slice(n, min(n + step, len(x))) for n in range(0, len(x), step)]


def _columns(x: Array, kernel: Pair, stride: Pair, pads: Pads, P: int, Q: int) -> Array:
    N, H, W, C = x.shape
    columns = _empty((N * P * Q, kernel[0] * kernel[1] * C), x)
    threads = N * P * Q * C
    each("im2col", threads, x, columns, H, W, C, P, Q, *_places(kernel, stride, pads), threads)
    return columns


def _places(kernel: Pair, stride: Pair, pads: Pads) -> tuple[int, ...]:
    """The arguments kh, kw, sh, sw, top, left of the kernels that go from window to window."""
    return (*kernel, *stride, pads[0][0], pads[1][0])


def _tiles(M: int, N: int) -> tuple[int, int]:
    """The grid of blocks (tile.cuh) for a product of shape (M, N)."""
    return -(-M // SIDE), -(-N // SIDE)


def _by_tiles(name: str, shape: tuple[int, ...], arrays: Sequence[Any], *sizes: int) -> Array:
    """Run a kernel that computes its output tile by tile (arrays, out, sizes): a new array of this shape."""
    out = _empty(shape, arrays[0])
    launch(name, _tiles(out.size // shape[-1], shape[-1]), TILE, *arrays, out, *sizes)
    return out


def _finish(out: Array, b: Array | None, relu: bool = False) -> Array:
    """Add the bias (F,) to the outputs (..., F), then take max(out, 0), in place."""
    if b is not None or relu:
        each("bias_relu", out.size, out, b, out.shape[-1], int(relu), out.size)
    return out


def conv2d(
    x: Array, w: Array, b: Array | None, *, stride: Pair, pads: Pads, relu: bool = False, exact: bool = False
) -> Array:
    x, w, b = _whole(x, w, b)
    (N, H, W, C), (kh, kw, _, F) = x.shape, w.shape
    P, Q = output_size((H, W), (kh, kw), stride, pads)
    dense = _is_dense((kh, kw), pads)
    if not dense and not by_columns(F):
        sizes = (N, H, W, C, P, Q, F, *_places((kh, kw), stride, pads))
        return _by_tiles("conv2d", (N, P, Q, F), [x, w, b], *sizes, int(relu))
    out, flat = _empty((N, P, Q, F), x), w.reshape(-1, F)
    if dense:
        (x,) = _whole(x[:, :: stride[0], :: stride[1]])
        _product(x.reshape(-1, C), flat, out.reshape(-1, F))  # (N*P*Q, C) @ (C, F) -> (N*P*Q, F)
    else:
        for part in _images(x, P, Q, len(flat)):
            columns = _columns(x[part], (kh, kw), stride, pads, P, Q)
            _product(columns, flat, out[part].reshape(-1, F))  # (n*P*Q, kh*kw*C) @ (kh*kw*C, F)
    return _finish(out, b, relu)


def conv2d_gx(g: Array, w: Array, *, size: Pair, stride: Pair, pads: Pads, exact: bool = False) -> Array:
    g, w = _whole(g, w)
    (N, P, Q, F), (kh, kw, C, _), (H, W) = g.shape, w.shape, size
    flat = w.reshape(-1, F).T
    if _is_dense((kh, kw), pads):
        gx = _product(g.reshape(-1, F), flat).reshape(N, P, Q, C)  # (N*P*Q, F) @ (F, C)
        if tuple(stride) == (1, 1):
            return gx
        spread = cupy.zeros((N, H, W, C), g.dtype)
        spread[:, :: stride[0], :: stride[1]] = gx
        return spread
    places = _places((kh, kw), stride, pads)
    if not by_columns(F):
        return _by_tiles("conv2d_gx", (N, H, W, C), [g, w], N, H, W, C, P, Q, F, *places)
    gx = _empty((N, H, W, C), g)
    for part in _images(g, P, Q, kh * kw * C):
        columns, here = _product(g[part].reshape(-1, F), flat), gx[part]  # (n*P*Q, F) @ (F, kh*kw*C)
        each("col2im", here.size, columns, here, H, W, C, P, Q, *places, here.size)
    return gx


def conv2d_gw(x: Array, g: Array, *, kernel: Pair, stride: Pair, pads: Pads, exact: bool = False) -> Array:
    x, g = _whole(x, g)
    (N, H, W, C), (_, P, Q, F), (kh, kw) = x.shape, g.shape, kernel
    if _is_dense(kernel, pads):
        (x,) = _whole(x[:, :: stride[0], :: stride[1]])
        return _product(x.reshape(-1, C).T, g.reshape(-1, F)).reshape(1, 1, C, F)  # (C, N*P*Q) @ (N*P*Q, F)
    if by_columns(F):
        gw: Any = None
        for part in _images(x, P, Q, kh * kw * C):
            columns = _columns(x[part], kernel, stride, pads, P, Q)
            product = _product(columns.T, g[part].reshape(-1, F))  # (kh*kw*C, n*P*Q) @ (n*P*Q, F)
            gw = product if gw is None else cupy.add(gw, product, out=gw)
        return gw.reshape(kh, kw, C, F)
    tiles, pixels = _tiles(kh * kw * C, F), N * P * Q
    blocks = max(1, min(-(-pixels // PIXELS), 1024 // (tiles[0] * tiles[1])))
    chunk = -(-pixels // blocks)
    parts = _empty((blocks, kh, kw, C, F), x)
    sizes = (N, H, W, C, P, Q, F, *_places(kernel, stride, pads))
    launch("conv2d_gw", (*tiles, blocks), TILE, x, g, parts, *sizes, chunk)
    return parts[0] if blocks == 1 else parts.sum(axis=0)


def linear(x: Array, w: Array, b: Array | None) -> Array:
    x, w, b = _whole(x, w, b)
    if cublas:
        return _finish(cupy.matmul(x, w), b)  # (N, D) @ (D, F)
    return _by_tiles("linear", (len(x), w.shape[1]), [x, w, b], *x.shape, w.shape[1])


def linear_gx(g: Array, w: Array) -> Array:
    g, w = _whole(g, w)
    if cublas:
        return cupy.matmul(g, w.T)  # (N, F) @ (F, D)
    return _by_tiles("linear_gx", (len(g), len(w)), [g, w], len(g), *w.shape)


def linear_gw(x: Array, g: Array) -> Array:
    x, g = _whole(x, g)
    if cublas:
        return cupy.matmul(x.T, g)  # (D, N) @ (N, F)
    return _by_tiles("linear_gw", (x.shape[1], g.shape[1]), [x, g], *x.shape, g.shape[1])


def _mapped(name: str, arrays: Sequence[Any], *settings: Any) -> Array:
    """Run an element-wise kernel (arrays, out, settings, n), a thread for each element of out: a new array."""
    out = _empty(arrays[0].shape, arrays[0])
    each(name, out.size, *_whole(*arrays), out, *settings, out.size)
    return out


# Element by element, arrays of one shape; scale_shift has a scale and a shift for each channel:
add = lambda a, b: a + b
relu = lambda x: _mapped("relu", [x])
add_relu = lambda a, b: _mapped("add_relu", [a, b])
relu_gx = lambda g, out: _mapped("relu_gx", [g, out])
dropout = lambda x, keep, scale: _mapped("dropout", [x, keep.astype(bool, copy=False).view(np.uint8)], scale)
running_average = lambda running, batch, share, factor=1.0: _mapped("running_average", [running, batch], share, factor)
scale_shift = lambda x, scale, shift: _mapped("scale_shift", [x, scale, shift], x.shape[-1])
sign_step = lambda x, g, step: _mapped("sign_step", [x, g], step)
random_step = lambda x, bits, alpha: _mapped("random_step", [x, cupy.asarray(bits)], alpha)  # bits come from the host


def _chunks(x: Array) -> tuple[int, int, int, tuple[int, int], tuple[int]]:
    """(rows, rows in a chunk, chunks, grid of the first launch, grid of the second launch)."""
    rows, C = x.size // x.shape[-1], x.shape[-1]
    chunk = max(CHUNK_ROWS, -(-rows // CHUNKS))
    chunks, groups = -(-rows // chunk), -(-C // LANES)
    return rows, chunk, chunks, (groups, chunks), (groups,)


def channel_sums(x: Array, y: Array | None = None) -> Array:
    x, y = _whole(x, y)
    C, (rows, chunk, chunks, first, second) = x.shape[-1], _chunks(x)
    parts, sums = _empty((chunks, C), x), _empty((C,), x)
    launch("channel_sums_part", first, SQUARE, x, y, parts, rows, C, chunk)
    launch("channel_sums_total", second, SQUARE, parts, sums, C, chunks)
    return sums


def batch_norm_train(
    x: Array, gamma: Array, beta: Array, *, eps: float, relu: bool = False
) -> tuple[Array, tuple[Array, ...], Array, Array]:
    x, gamma, beta = _whole(x, gamma, beta)
    C, (rows, chunk, chunks, first, second) = x.shape[-1], _chunks(x)
    means, m2s = _empty((2, chunks, C), x)
    mean, variance, inverse = _empty((3, C), x)
    out = _empty(x.shape, x)
    launch("batch_norm_moments", first, SQUARE, x, means, m2s, rows, C, chunk)
    launch("batch_norm_statistics", second, SQUARE, means, m2s, mean, variance, inverse, rows, C, chunk, chunks, eps)
    each("batch_norm_train", x.size, x, mean, inverse, gamma, beta, out, C, int(relu), x.size)
    return out, (x, mean, inverse), mean, variance


def batch_norm_train_gx(
    g: Array, saved: tuple[Array, ...], gamma: Array, out: Array | None = None
) -> tuple[Array, Array, Array]:
    (g, gamma, out), (x, mean, inverse) = _whole(g, gamma, out), saved
    C, (rows, chunk, chunks, first, second) = x.shape[-1], _chunks(x)
    g_sums, gx_sums = _empty((2, chunks, C), x)
    ggamma, gbeta = _empty((2, C), x)
    gx = _empty(x.shape, x)
    launch("batch_norm_sums", first, SQUARE, g, x, mean, out, g_sums, gx_sums, rows, C, chunk)
    launch("batch_norm_gradients", second, SQUARE, g_sums, gx_sums, inverse, ggamma, gbeta, C, chunks)
    each("batch_norm_train_gx", x.size, g, x, mean, inverse, gamma, ggamma, gbeta, out, gx, 1 / rows, C, x.size)
    return gx, ggamma, gbeta


def max_pool(x: Array, *, kernel: Pair, stride: Pair, pads: Pads, ceil: bool) -> tuple[Array, Array]:
    (N, H, W, C), (P, Q) = x.shape, output_size(x.shape[1:3], kernel, stride, pads, ceil)
    best, place = _empty((N, P, Q, C), x), cupy.empty((N, P, Q, C), np.uint8)
    each("max_pool", best.size, *_whole(x), best, place, H, W, C, P, Q, *_places(kernel, stride, pads), best.size)
    return best, place


def max_pool_gx(g: Array, place: Array, *, size: Pair, kernel: Pair, stride: Pair, pads: Pads) -> Array:
    N, P, Q, C = g.shape
    gx = _empty((N, *size, C), g)
    each("max_pool_gx", gx.size, *_whole(g), place, gx, *size, C, P, Q, *_places(kernel, stride, pads), gx.size)
    return gx


def avg_pool(x: Array, *, kernel: Pair, stride: Pair, pads: Pads, count_padding: bool) -> Array:
    (N, H, W, C), (P, Q) = x.shape, output_size(x.shape[1:3], kernel, stride, pads)
    out, places = _empty((N, P, Q, C), x), _places(kernel, stride, pads)
    each("avg_pool", out.size, *_whole(x), out, H, W, C, P, Q, *places, int(count_padding), out.size)
    return out


def avg_pool_gx(g: Array, *, size: Pair, kernel: Pair, stride: Pair, pads: Pads, count_padding: bool) -> Array:
    (N, P, Q, C), places = g.shape, _places(kernel, stride, pads)
    gx = _empty((N, *size, C), g)
    each("avg_pool_gx", gx.size, *_whole(g), gx, *size, C, P, Q, *places, int(count_padding), gx.size)
    return gx


def softmax_cross_entropy(logits: Array, labels: Array) -> tuple[Array, Array]:
    (N, C), warps = logits.shape, 4  # a block has 4 warps, each computes one row
    loss, gradient = _empty((N,), logits), _empty((N, C), logits)
    launch("softmax_cross_entropy", (-(-N // warps),), (LANES, warps), *_whole(logits, labels), loss, gradient, N, C)
    return loss, gradient


def clip_by_norm(gradients: Sequence[Array], clip: float | None) -> tuple[Array, Array]:
    chunk = 2**14
    starts = list(accumulate((-(-g.size // chunk) for g in gradients), initial=0))
    parts, (norm, scale) = _empty((starts[-1],), gradients[0]), _empty((2, 1), gradients[0])
    for g, first, end in zip(gradients, starts, starts[1:]):
        launch("squares", (end - first,), TILE, *_whole(g), parts, first, chunk, g.size)
    launch("clip_scale", (1,), TILE, parts, norm, scale, clip or 0.0, len(parts))
    return norm[0], scale


def sgd_step(w: Array, g: Array, v: Array, scale: Array, *, rate: float, momentum: float, weight_decay: float) -> None:
    each("sgd_step", w.size, w, *_whole(g), v, scale, rate, momentum, weight_decay, w.size)


def adam_step(
    w: Array, g: Array, m: Array, v: Array, scale: Array, *, rate: float, betas: Pair, steps: int, eps: float,
    weight_decay: float,
) -> None:  # fmt: skip
    corrections = [1 - b**steps for b in betas]
    each("adam_step", w.size, w, *_whole(g), m, v, scale, rate, *betas, *corrections, eps, weight_decay, w.size)
