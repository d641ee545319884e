"""Kernels as loops over every entry of the output, written from the definition: what plain.py is compared with."""

from __future__ import annotations

from typing import Any

import numpy as np

from minisatm.kernels.plain import Pads, Pair, output_size

Array = np.ndarray[Any, Any]


def _inside(i: int, j: int, size: tuple[int, ...]) -> bool:
    return 0 <= i < size[0] and 0 <= j < size[1]


def conv2d(x: Array, w: Array, b: Array | None, *, stride: Pair, pads: Pads) -> Array:
    kh, kw, C, F = w.shape
    P, Q = output_size(x.shape[1:3], (kh, kw), stride, pads)
    out = np.zeros((len(x), P, Q, F), x.dtype)
    for n, p, q, f in np.ndindex(out.shape):
        for i, j in np.ndindex(kh, kw):
            row, column = p * stride[0] + i - pads[0][0], q * stride[1] + j - pads[1][0]
            if _inside(row, column, x.shape[1:3]):
                for c in range(C):
                    out[n, p, q, f] += x[n, row, column, c] * w[i, j, c, f]
        if b is not None:
            out[n, p, q, f] += b[f]
    return out


def max_pool(x: Array, *, kernel: Pair, stride: Pair, pads: Pads, ceil: bool) -> tuple[Array, Array]:
    """The largest pixel of each window, and the number of its tap; of equal pixels the first."""
    out = np.full((len(x), *output_size(x.shape[1:3], kernel, stride, pads, ceil), x.shape[3]), -np.inf, x.dtype)
    place = np.zeros(out.shape, np.uint8)
    for n, p, q, c in np.ndindex(out.shape):
        for i, j in np.ndindex(*kernel):
            row, column = p * stride[0] + i - pads[0][0], q * stride[1] + j - pads[1][0]
            if _inside(row, column, x.shape[1:3]) and x[n, row, column, c] > out[n, p, q, c]:
                out[n, p, q, c], place[n, p, q, c] = x[n, row, column, c], i * kernel[1] + j
    return out, place


def avg_pool(x: Array, *, kernel: Pair, stride: Pair, pads: Pads, count_padding: bool) -> Array:
    out = np.zeros((len(x), *output_size(x.shape[1:3], kernel, stride, pads), x.shape[3]), x.dtype)
    for n, p, q, c in np.ndindex(out.shape):
        inside = 0
        for i, j in np.ndindex(*kernel):
            row, column = p * stride[0] + i - pads[0][0], q * stride[1] + j - pads[1][0]
            if _inside(row, column, x.shape[1:3]):
                out[n, p, q, c] += x[n, row, column, c]
                inside += 1
        out[n, p, q, c] /= kernel[0] * kernel[1] if count_padding else inside
    return out


def linear(x: Array, w: Array, b: Array | None) -> Array:
    out = np.zeros((len(x), w.shape[1]), x.dtype)
    for n, f in np.ndindex(out.shape):
        for c in range(x.shape[1]):
            out[n, f] += x[n, c] * w[c, f]
        if b is not None:
            out[n, f] += b[f]
    return out


def batch_norm(x: Array, gamma: Array, beta: Array, mean: Array, variance: Array, *, eps: float) -> Array:
    out = np.empty_like(x)
    for index in np.ndindex(x.shape):
        c = index[-1]
        out[index] = gamma[c] * (x[index] - mean[c]) / np.sqrt(variance[c] + eps) + beta[c]
    return out


def batch_statistics(x: Array) -> tuple[Array, Array]:
    """Mean and (biased) variance per channel."""
    flat = x.reshape(-1, x.shape[-1])
    mean, variance = np.zeros(flat.shape[1], x.dtype), np.zeros(flat.shape[1], x.dtype)
    for c in range(flat.shape[1]):
        for value in flat[:, c]:
            mean[c] += value / len(flat)
        for value in flat[:, c]:
            variance[c] += (value - mean[c]) ** 2 / len(flat)
    return mean, variance


def softmax_cross_entropy(logits: Array, labels: Array) -> Array:
    loss = np.zeros(len(logits), logits.dtype)
    for n in range(len(logits)):
        top = max(logits[n])
        log_sum = top + np.log(sum(np.exp(z - top) for z in logits[n]))
        for c in range(logits.shape[1]):
            loss[n] += labels[n, c] * (log_sum - logits[n, c])
    return loss
