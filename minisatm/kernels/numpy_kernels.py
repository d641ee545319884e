"""The kernels on NumPy arrays, channels last: layers, batch norm, loss, the steps of attacks and optimisers.

No tape here: arrays and settings in, arrays out; inputs are only read (but by an optimiser's step). Each forward kernel
has a twin of plain loops in naive.py, and each gradient is held against its forward as the adjoint. This is the list of
what a backend must have; cupy_kernels.py has the same for CuPy arrays. The convolutions themselves are in im2col.py and
winograd.py, the pools in pooling.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..parallel import on_cores, with_one_blas_thread
from . import blocks, im2col, winograd
from .blocks import Array, Pads, Pair, as_rows, on_rows, output_size, slices, tiled, zeros
from .pooling import avg_pool, avg_pool_gx, max_pool, max_pool_gx

__all__ = [
    "adam_step", "add", "add_relu", "avg_pool", "avg_pool_gx", "batch_norm_train", "batch_norm_train_gx",
    "channel_sums", "clip_by_norm", "conv2d", "conv2d_gw", "conv2d_gx", "dropout", "linear", "linear_gw", "linear_gx",
    "max_pool", "max_pool_gx", "random_step", "relu", "relu_gx", "running_average", "scale_shift", "sgd_step",
    "sign_step", "softmax_cross_entropy",
]  # fmt: skip


# --- convolution: x (N, H, W, C), w (kh, kw, C, F), b (F,), g (N, P, Q, F) -----------------------------------------


def _by_winograd(w_shape: tuple[int, ...], stride: Pair, out: tuple[int, ...], dtype: Any, exact: bool) -> bool:
    """3x3 kernels of stride 1 in float32, where it multiplies less; float64 is for checking, so it stays exact."""
    return (
        not exact and dtype == np.float32 and w_shape[:2] == (3, 3) and stride == (1, 1)
        and winograd.pays(out, *w_shape[2:])
    )  # fmt: skip


@with_one_blas_thread
def conv2d(
    x: Array, w: Array, b: Array | None, *, stride: Pair, pads: Pads, relu: bool = False, exact: bool = False
) -> Array:
    """im2col.conv2d, by Winograd's way where that is faster, unless `exact`; `relu`: then max(out, 0)."""
    out = tuple(output_size(n, k, s, p) for n, k, s, p in zip(x.shape[1:3], w.shape, stride, pads))
    if _by_winograd(w.shape, stride, out, x.dtype, exact):
        return winograd.conv2d(x, w, b, pads=pads, relu=relu)
    return im2col.conv2d(x, w, b, stride=stride, pads=pads, relu=relu)


@with_one_blas_thread
def conv2d_gx(g: Array, w: Array, *, size: Pair, stride: Pair, pads: Pads, exact: bool = False) -> Array:
    """Gradient of conv2d to x, as convolutions of g: (N, P, Q, F) -> (N, H, W, C), with size = (H, W)."""

    def conv(*arrays: Any, **where: Any) -> Array:
        return conv2d(*arrays, **where, exact=exact)

    return im2col.conv2d_gx(g, w, size=size, stride=stride, pads=pads, conv=conv)


@with_one_blas_thread
def conv2d_gw(x: Array, g: Array, *, kernel: Pair, stride: Pair, pads: Pads, exact: bool = False) -> Array:
    """Gradient of conv2d to w: (N, H, W, C), (N, P, Q, F) -> (kh, kw, C, F)."""
    if _by_winograd((*kernel, x.shape[3], g.shape[3]), stride, g.shape[1:3], x.dtype, exact):
        return winograd.conv2d_gw(x, g, pads=pads)
    return im2col.conv2d_gw(x, g, kernel=kernel, stride=stride, pads=pads)


# --- dense layers: x (N, D), w (D, F), b (F,), g (N, F); the weights are far larger than the batch, so they are cut --


def linear(x: Array, w: Array, b: Array | None) -> Array:
    """x @ w + b: -> (N, F)."""
    out = np.empty((len(x), w.shape[1]), x.dtype)
    on_cores(lambda f: np.matmul(x, w[:, f], out=out[:, f]), slices(w.shape[1], w.size))  # (N, D) @ (D, F)
    return out if b is None else np.add(out, b, out=out)


def linear_gx(g: Array, w: Array) -> Array:
    """Gradient of linear to x: -> (N, D)."""
    gx = np.empty((len(g), len(w)), g.dtype)
    on_cores(lambda d: np.matmul(g, w[d].T, out=gx[:, d]), slices(len(w), w.size))  # (N, F) @ (F, D)
    return gx


def linear_gw(x: Array, g: Array) -> Array:
    """Gradient of linear to w: -> (D, F)."""
    gw = np.empty((x.shape[1], g.shape[1]), g.dtype)
    on_cores(lambda d: np.matmul(x[:, d].T, g, out=gw[d]), slices(len(gw), gw.size))  # (D, N) @ (N, F)
    return gw


# --- element-wise ------------------------------------------------------------------------------------------------


def _in_blocks(work: Callable[..., Any], *arrays: Array) -> None:
    """work(*parts) for matching parts of arrays of one shape, which it fills or changes in place."""
    if arrays[0].nbytes <= blocks.SMALL or not all(a.flags.c_contiguous for a in arrays):
        work(*arrays)
        return
    flat = [a.reshape(-1) for a in arrays]
    on_rows(lambda r: work(*(a[r] for a in flat)), flat[0])


def add(a: Array, b: Array) -> Array:
    """a + b, of two arrays of one shape."""
    out = np.empty(a.shape, a.dtype)
    _in_blocks(lambda a, b, out: np.add(a, b, out=out), a, b, out)
    return out


def relu(x: Array) -> Array:
    """max(x, 0)."""
    out = np.empty(x.shape, x.dtype)
    _in_blocks(lambda x, out: np.maximum(x, zeros(x.size, x.dtype).reshape(x.shape), out=out), x, out)
    return out


def add_relu(a: Array, b: Array) -> Array:
    """max(a + b, 0), of two arrays of one shape."""
    out = np.empty(a.shape, a.dtype)

    def part(a: Array, b: Array, out: Array) -> None:
        np.add(a, b, out=out)
        np.maximum(out, zeros(out.size, out.dtype).reshape(out.shape), out=out)

    _in_blocks(part, a, b, out)
    return out


def relu_gx(g: Array, out: Array) -> Array:
    """Gradient of relu: g where the output is above zero."""
    gx = np.empty(g.shape, g.dtype)
    _in_blocks(lambda g, out, gx: np.multiply(g, out > 0, out=gx), g, out, gx)
    return gx


def scale_shift(x: Array, scale: Array, shift: Array | None) -> Array:
    """x * scale + shift per channel: (..., C), (C,), (C,) -> (..., C); None: no shift."""
    out = np.empty(x.shape, x.dtype)
    rows, made, factor = as_rows(x), as_rows(out), tiled(x, scale)
    term = None if shift is None else tiled(x, shift)

    def part(r: slice) -> None:
        np.multiply(rows[r], factor, out=made[r])
        if term is not None:
            np.add(made[r], term, out=made[r])

    on_rows(part, rows)
    return out


def dropout(x: Array, keep: Array, scale: float) -> Array:
    """x * scale where `keep` is true, else 0."""
    return x * keep * scale


@with_one_blas_thread
def channel_sums(x: Array, y: Array | None = None) -> Array:
    """Sum over all but the last axis of x, or of x * y: (..., C) -> (C,)."""
    rows = as_rows(x)
    if y is None:
        sums = on_rows(lambda r: _sum(rows[r]), rows)
    else:
        others = as_rows(y)
        sums = on_rows(lambda r: np.einsum("ij,ij->j", rows[r], others[r]), rows)
    return _total(sums, x)


def _sum(rows: Array) -> Array:
    """Column sums as a matrix product: BLAS sums faster than NumPy."""
    return np.ones(len(rows), rows.dtype) @ rows


def _total(sums: Sequence[Array], x: Array) -> Array:
    """The sums of all blocks and of all pixels in a row: (C,)."""
    total = sums[0] if len(sums) == 1 else np.sum(sums, axis=0)
    return total.reshape(-1, x.shape[-1]).sum(axis=0)


# --- batch norm: the last axis is the channel, all others are samples --------------------------------------------


@with_one_blas_thread
def batch_norm_train(
    x: Array, gamma: Array, beta: Array, *, eps: float, relu: bool = False
) -> tuple[Array, tuple[Array, ...], Array, Array]:
    """Normalise each channel by its own mean and variance: (out, what the gradient needs, mean, variance).

    The variance is the mean square of the centred values (two passes): right for means far larger than the spread.
    relu: max(out, 0).
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


@with_one_blas_thread
def batch_norm_train_gx(
    g: Array, saved: tuple[Array, ...], gamma: Array, out: Array | None = None
) -> tuple[Array, Array, Array]:
    """Gradients of batch_norm_train to x, gamma and beta; `out`: the output, where it was cut by relu.

    gx = gamma/std * (g - mean(g) - centred * mean(g * centred) / std^2): the second term is the mean's path, the third
    the variance's.
    """
    (centred, inverse), n, gx = saved, g.size // g.shape[-1], np.empty(g.shape, g.dtype)
    grown, middle, made = as_rows(g), as_rows(centred), as_rows(gx)
    on = None if out is None else as_rows(out)

    def moments(r: slice) -> tuple[Array, Array]:
        cut = grown[r] if on is None else np.multiply(grown[r], on[r] > 0, out=made[r])  # kept for the second pass
        return _sum(cut), np.einsum("ij,ij->j", cut, middle[r])

    g_sums, gx_sums = zip(*on_rows(moments, grown))
    g_sum, gx_sum = _total(g_sums, g), _total(gx_sums, g)
    factor = gamma * inverse
    slope, term = tiled(g, -factor * inverse * inverse * gx_sum / n), tiled(g, -factor * g_sum / n)
    factor, cut = tiled(g, factor), grown if on is None else made

    def combine(r: slice) -> None:
        paths = middle[r] * slope
        paths += term
        np.multiply(cut[r], factor, out=made[r])
        np.add(made[r], paths, out=made[r])

    on_rows(combine, grown)
    return gx, gx_sum * inverse, g_sum


def running_average(running: Array, batch: Array, share: float, factor: float = 1.0) -> Array:
    """running + share * (factor * batch - running), a new array."""
    return running + share * (batch * factor - running)


# --- loss and attack ----------------------------------------------------------------------------------------------


def softmax_cross_entropy(logits: Array, labels: Array) -> tuple[Array, Array]:
    """-sum_c labels_c log softmax(logits)_c per row, and its gradient: (N, C), (N, C) -> (N,), (N, C).

    The row's maximum is taken off first, so logits of 1e4 neither overflow nor lose the loss. The gradient to the
    logits is softmax(logits) * sum_c labels_c - labels.
    """
    shifted = logits - logits.max(axis=1, keepdims=True)
    exponentials = np.exp(shifted)
    total = exponentials.sum(axis=1, keepdims=True)
    loss = (labels * (np.log(total) - shifted)).sum(axis=1)
    return loss, exponentials / total * labels.sum(axis=1, keepdims=True) - labels


def sign_step(x: Array, g: Array, step: float) -> Array:
    """clip(x + step * sign(g)) to [0, 1]; x is in it, a GPU gives NaN elsewhere."""
    out = np.empty(x.shape, x.dtype)

    def part(x: Array, g: Array, out: Array) -> None:
        np.multiply(np.sign(g), step, out=out)
        np.add(x, out, out=out)
        np.clip(out, 0, 1, out=out)

    _in_blocks(part, x, g, out)
    return out


def random_step(x: Array, bits: Array, alpha: float) -> Array:
    """clip(x + alpha * sign(N(0, I))) to [0, 1]: the signs are bits, eight to a byte (streams.random_bits)."""
    signs = np.unpackbits(bits, count=x.size).astype(np.int8) * 2 - 1
    return sign_step(x, signs.astype(x.dtype).reshape(x.shape), alpha)


# --- optimisers: a step in place, in blocks; no temporary exceeds a block -------------------------------------------


def clip_by_norm(gradients: Sequence[Array], clip: float | None) -> tuple[float, float]:
    """The L2 norm of all gradients together, and the factor that makes it `clip` at most; NaN if it is not finite."""
    norm = math.sqrt(sum(float(g @ g) for g in (g.reshape(-1) for g in gradients)))
    if not math.isfinite(norm):
        return norm, math.nan
    return norm, clip / norm if clip and norm > clip else 1.0


def sgd_step(w: Array, g: Array, v: Array, scale: float, *, rate: float, momentum: float, weight_decay: float) -> None:
    """v = momentum * v + g;  w = w - rate * v, for g * scale + weight_decay * w; nothing where scale is NaN."""

    def part(w: Array, g: Array, v: Array) -> None:
        own = _decayed(w, g, scale, weight_decay)
        v *= momentum
        v += own
        w -= rate * v

    if not math.isnan(scale):
        _in_blocks(part, w, g, v)


def adam_step(
    w: Array, g: Array, m: Array, v: Array, scale: float, *, rate: float, betas: tuple[float, float], steps: int,
    eps: float, weight_decay: float,
) -> None:  # fmt: skip
    """Kingma and Ba 2015, Algorithm 1, step number `steps`, for g * scale + weight_decay * w; nothing at scale NaN."""
    b1, b2 = betas

    def part(w: Array, g: Array, m: Array, v: Array) -> None:
        own = _decayed(w, g, scale, weight_decay)
        m += (1 - b1) * (own - m)
        v += (1 - b2) * (own * own - v)
        m_hat, v_hat = m / (1 - b1**steps), v / (1 - b2**steps)
        w -= rate * m_hat / (np.sqrt(v_hat) + eps)

    if not math.isnan(scale):
        _in_blocks(part, w, g, m, v)


def _decayed(w: Array, g: Array, scale: float, weight_decay: float) -> Array:
    own = g * scale
    if weight_decay:
        own += weight_decay * w
    return own
