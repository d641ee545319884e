"""The fast kernels on NumPy arrays: the same names, arguments and results as in plain.py, which has the formulas.

__all__ is the list of what a backend must have; cupy_kernels.py has the same for CuPy arrays. Work is done in blocks
that fit a core's cache, on all free cores (blocks.py). Convolution is in im2col.py and winograd.py, pooling in
pooling.py; kernels with little to compute are those of plain.py. Only the optimisers' steps change their inputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from ..parallel import on_cores, one_blas_thread
from . import blocks, im2col, winograd
from .blocks import as_rows, on_rows, slices, tiled, zeros
from .plain import Array, Pads, Pair, dropout, output_size, running_average, softmax_cross_entropy
from .pooling import avg_pool, avg_pool_gx, max_pool, max_pool_gx

__all__ = [
    "adam_step", "add", "add_relu", "avg_pool", "avg_pool_gx", "batch_norm_train", "batch_norm_train_gx",
    "channel_sums", "clip_by_norm", "conv2d", "conv2d_gw", "conv2d_gx", "dropout", "linear", "linear_gw", "linear_gx",
    "max_pool", "max_pool_gx", "random_step", "relu", "relu_gx", "running_average", "scale_shift", "sgd_step",
    "sign_step", "softmax_cross_entropy",
]  # fmt: skip


def _by_winograd(w_shape: tuple[int, ...], stride: Pair, out: tuple[int, ...], dtype: Any, exact: bool) -> bool:
    """Is it a 3x3 kernel of stride 1 in float32, and is Winograd's algorithm faster? float64 is for exact checks."""
    fits = not exact and dtype == np.float32 and w_shape[:2] == (3, 3) and stride == (1, 1)
    return fits and winograd.pays(out, *w_shape[2:])


@one_blas_thread
def conv2d(
    x: Array, w: Array, b: Array | None, *, stride: Pair, pads: Pads, relu: bool = False, exact: bool = False
) -> Array:
    """plain.conv2d, by Winograd's algorithm where that is faster (and not exact), else by im2col."""
    out = output_size(x.shape[1:3], w.shape[:2], stride, pads)
    if _by_winograd(w.shape, stride, out, x.dtype, exact):
        return winograd.conv2d(x, w, b, pads=pads, relu=relu)
    return im2col.conv2d(x, w, b, stride=stride, pads=pads, relu=relu)


@one_blas_thread
def conv2d_gx(g: Array, w: Array, *, size: Pair, stride: Pair, pads: Pads, exact: bool = False) -> Array:
    """plain.conv2d_gx, as convolutions of g: (N, P, Q, F) -> (N, H, W, C), size = (H, W)."""
    return im2col.conv2d_gx(g, w, size=size, stride=stride, pads=pads, conv=partial(conv2d, exact=exact))


@one_blas_thread
def conv2d_gw(x: Array, g: Array, *, kernel: Pair, stride: Pair, pads: Pads, exact: bool = False) -> Array:
    """plain.conv2d_gw: (N, H, W, C), (N, P, Q, F) -> (kh, kw, C, F)."""
    if _by_winograd((*kernel, x.shape[3], g.shape[3]), stride, g.shape[1:3], x.dtype, exact):
        return winograd.conv2d_gw(x, g, pads=pads)
    return im2col.conv2d_gw(x, g, kernel=kernel, stride=stride, pads=pads)


def linear(x: Array, w: Array, b: Array | None) -> Array:
    """plain.linear, with w cut into parts for the cores, since it is far larger than the batch."""
    out = np.empty((len(x), w.shape[1]), x.dtype)
    on_cores(lambda f: np.matmul(x, w[:, f], out=out[:, f]), slices(w.shape[1], w.size))  # (N, D) @ (D, F)
    return out if b is None else np.add(out, b, out=out)


def linear_gx(g: Array, w: Array) -> Array:
    """plain.linear_gx, likewise."""
    gx = np.empty((len(g), len(w)), g.dtype)
    on_cores(lambda d: np.matmul(g, w[d].T, out=gx[:, d]), slices(len(w), w.size))  # (N, F) @ (F, D)
    return gx


def linear_gw(x: Array, g: Array) -> Array:
    """plain.linear_gw, likewise."""
    gw = np.empty((x.shape[1], g.shape[1]), g.dtype)
    on_cores(lambda d: np.matmul(x[:, d].T, g, out=gw[d]), slices(len(gw), gw.size))  # (D, N) @ (N, F)
    return gw


def _in_blocks(work: Callable[..., Any], *arrays: Array) -> None:
    """Call work(*parts) for matching parts of arrays of one shape; work fills or changes some of them in place."""
    if arrays[0].nbytes <= blocks.SMALL or not all(a.flags.c_contiguous for a in arrays):
        work(*arrays)
        return
    flat = [a.reshape(-1) for a in arrays]
    on_rows(lambda r: work(*(a[r] for a in flat)), flat[0])


def _mapped(work: Callable[..., Any], *arrays: Array) -> Array:
    """A new array like the first one, which work(*parts, part of the new array) fills in blocks."""
    out = np.empty(arrays[0].shape, arrays[0].dtype)
    _in_blocks(work, *arrays, out)
    return out


def add(a: Array, b: Array) -> Array:
    """a + b, two arrays of one shape."""
    return _mapped(np.add, a, b)


def relu(x: Array) -> Array:
    """max(x, 0)."""
    return _mapped(_positive, x)


def _positive(x: Array, out: Array) -> None:
    np.maximum(x, zeros(x.size, x.dtype).reshape(x.shape), out=out)


def add_relu(a: Array, b: Array) -> Array:
    """max(a + b, 0), two arrays of one shape."""
    return _mapped(lambda a, b, out: _positive(np.add(a, b, out=out), out), a, b)


def relu_gx(g: Array, out: Array) -> Array:
    """plain.relu_gx: g where the output is above zero, else 0."""
    return _mapped(lambda g, out, gx: np.multiply(g, out > 0, out=gx), g, out)


def scale_shift(x: Array, scale: Array, shift: Array | None) -> Array:
    """x * scale + shift per channel: (..., C), (C,), (C,) -> (..., C)."""
    out = np.empty(x.shape, x.dtype)
    rows, made, factor = as_rows(x), as_rows(out), tiled(x, scale)
    term = None if shift is None else tiled(x, shift)

    def part(r: slice) -> None:
        np.multiply(rows[r], factor, out=made[r])
        if term is not None:
            np.add(made[r], term, out=made[r])

    on_rows(part, rows)
    return out


@one_blas_thread
def channel_sums(x: Array, y: Array | None = None) -> Array:
    """The sum of x, or of x * y, over all axes but the last: (..., C) -> (C,)."""
    rows, others = as_rows(x), None if y is None else as_rows(y)
    part = lambda r: _sum(rows[r]) if others is None else np.einsum("ij,ij->j", rows[r], others[r])
    return _total(on_rows(part, rows), x)


def _sum(rows: Array) -> Array:
    """The sum of each column, as a matrix product with ones: BLAS sums faster than NumPy."""
    return np.ones(len(rows), rows.dtype) @ rows


def _total(sums: Sequence[Array], x: Array) -> Array:
    """The sum (C,) of all blocks' sums, and of the pixels that share a row (as_rows)."""
    total = sums[0] if len(sums) == 1 else np.sum(sums, axis=0)
    return total.reshape(-1, x.shape[-1]).sum(axis=0)


@one_blas_thread
def batch_norm_train(
    x: Array, gamma: Array, beta: Array, *, eps: float, relu: bool = False
) -> tuple[Array, tuple[Array, ...], Array, Array]:
    """plain.batch_norm_train: (out, what the gradient needs, mean, variance).

    The variance takes a second pass over the centred values, as there: mean(x^2) - mean(x)^2 would lose all digits
    where the mean is far larger than the standard deviation.
    """
    n, out, centred = x.size // x.shape[-1], np.empty(x.shape, x.dtype), np.empty(x.shape, x.dtype)
    rows, middle, made = as_rows(x), as_rows(centred), as_rows(out)
    mean = _total(on_rows(lambda r: _sum(rows[r]), rows), x) / n
    offset = tiled(x, mean)

    def centre(r: slice) -> Array:
        np.subtract(rows[r], offset, out=middle[r])
        return np.einsum("ij,ij->j", middle[r], middle[r])

    variance = _total(on_rows(centre, rows), x) / n
    inverse = 1 / np.sqrt(variance + eps)
    factor, term, zero = tiled(x, inverse * gamma), tiled(x, beta), zeros(rows.shape[1], x.dtype)

    def normalise(r: slice) -> None:
        np.multiply(middle[r], factor, out=made[r])
        np.add(made[r], term, out=made[r])
        if relu:
            np.maximum(made[r], zero, out=made[r])

    on_rows(normalise, rows)
    return out, (centred, inverse), mean, variance


@one_blas_thread
def batch_norm_train_gx(
    g: Array, saved: tuple[Array, ...], gamma: Array, out: Array | None = None
) -> tuple[Array, Array, Array]:
    """plain.batch_norm_train_gx: the gradients to x, gamma and beta."""
    (centred, inverse), n, gx = saved, g.size // g.shape[-1], np.empty(g.shape, g.dtype)
    g_rows, middle, made = as_rows(g), as_rows(centred), as_rows(gx)
    on = None if out is None else as_rows(out)

    def moments(r: slice) -> tuple[Array, Array]:
        # the masked gradient stays in gx for the second pass
        masked = g_rows[r] if on is None else np.multiply(g_rows[r], on[r] > 0, out=made[r])
        return _sum(masked), np.einsum("ij,ij->j", masked, middle[r])

    g_sums, gx_sums = zip(*on_rows(moments, g_rows))
    g_sum, gx_sum = _total(g_sums, g), _total(gx_sums, g)
    factor = gamma * inverse
    slope, term = tiled(g, -factor * inverse * inverse * gx_sum / n), tiled(g, -factor * g_sum / n)
    factor, masked = tiled(g, factor), g_rows if on is None else made

    def combine(r: slice) -> None:
        paths = middle[r] * slope
        paths += term
        np.multiply(masked[r], factor, out=made[r])
        np.add(made[r], paths, out=made[r])

    on_rows(combine, g_rows)
    return gx, gx_sum * inverse, g_sum


def sign_step(x: Array, g: Array, step: float) -> Array:
    """plain.sign_step; x must lie in [0, 1] (a GPU gives NaN for other pixels)."""

    def part(x: Array, g: Array, out: Array) -> None:
        np.multiply(np.sign(g), step, out=out)
        np.add(x, out, out=out)
        np.clip(out, 0, 1, out=out)

    return _mapped(part, x, g)


def random_step(x: Array, bits: Array, alpha: float) -> Array:
    """plain.random_step, with the bits from streams.random_bits."""
    signs = np.unpackbits(bits, count=x.size).astype(np.int8) * 2 - 1
    return sign_step(x, signs.astype(x.dtype).reshape(x.shape), alpha)


def clip_by_norm(gradients: Sequence[Array], clip: float | None) -> tuple[float, float]:
    """plain.clip_by_norm: the norm, and the factor that makes it at most clip."""
    norm = math.sqrt(sum(float(g @ g) for g in (g.reshape(-1) for g in gradients)))
    return norm, (clip / norm if clip and norm > clip else 1.0) if math.isfinite(norm) else math.nan


def sgd_step(w: Array, g: Array, v: Array, scale: float, *, rate: float, momentum: float, weight_decay: float) -> None:
    """plain.sgd_step, in blocks: no temporary array is larger than a block."""

    def part(w: Array, g: Array, v: Array) -> None:
        v *= momentum
        v += _decayed(w, g, scale, weight_decay)
        w -= rate * v

    if not math.isnan(scale):
        _in_blocks(part, w, g, v)


def adam_step(
    w: Array, g: Array, m: Array, v: Array, scale: float, *, rate: float, betas: tuple[float, float], steps: int,
    eps: float, weight_decay: float,
) -> None:  # fmt: skip
    """plain.adam_step, in blocks."""
    b1, b2 = betas

    def part(w: Array, g: Array, m: Array, v: Array) -> None:
        g = _decayed(w, g, scale, weight_decay)
        m += (1 - b1) * (g - m)
        v += (1 - b2) * (g * g - v)
        m_hat, v_hat = m / (1 - b1**steps), v / (1 - b2**steps)
        w -= rate * m_hat / (np.sqrt(v_hat) + eps)

    if not math.isnan(scale):
        _in_blocks(part, w, g, m, v)


def _decayed(w: Array, g: Array, scale: float, weight_decay: float) -> Array:
    """scale * g + weight_decay * w."""
    return g * scale + weight_decay * w if weight_decay else g * scale
