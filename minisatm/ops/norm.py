"""Batch norm as two ops (with the statistics of the batch, or with given ones), and dropout."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..backend import array_module, kernels
from ..tape import Array, Recorded, RecordedAux
from ..tensor import op


@op
def batch_norm_train(x: Array, gamma: Array, beta: Array, *, eps: float, relu: bool = False) -> RecordedAux:
    """gamma * (x - mean) / sqrt(variance + eps) + beta, with the mean and variance of the batch per channel.

    x (..., C), gamma and beta (C,). aux is (mean, biased variance), for the layer's running statistics. relu:
    max(out, 0) in the same pass. Ioffe and Szegedy 2015, Algorithm 1.
    """
    k = kernels(x)
    out, saved, mean, variance = k.batch_norm_train(x, gamma, beta, eps=eps, relu=relu)
    # one vjp for all inputs, since they share the sums
    return out, lambda g, wanted: k.batch_norm_train_gx(g, saved, gamma, out if relu else None), (mean, variance)


@op
def batch_norm_eval(x: Array, gamma: Array, beta: Array, mean: Array, var: Array, *, eps: float) -> Recorded:
    """gamma * (x - mean) / sqrt(var + eps) + beta with given, constant statistics: x (..., C), the rest (C,)."""
    k = kernels(x)
    inverse = 1 / np.sqrt(var + eps)
    scale = gamma * inverse
    out = k.scale_shift(x, scale, beta - mean * scale)
    return out, (
        lambda g: k.scale_shift(g, scale, None),
        lambda g: (k.channel_sums(g, x) - mean * k.channel_sums(g)) * inverse,
        lambda g: k.channel_sums(g),
        None,
        None,
    )


@op
def dropout(x: Array, *, rate: float, rng: Any = None, mask: Array = None) -> Recorded:
    """Drop each entry with probability `rate` and divide the others by 1 - rate; the mask is drawn by rng, or given."""
    if not 0 <= rate < 1:
        raise ValueError(f"dropout rate {rate}: it must lie in [0, 1).")
    if mask is None:
        mask = array_module(x).asarray(rng.random(x.shape, dtype=np.float32) >= rate)
    k, scale = kernels(x), 1 / (1 - rate)
    return k.dropout(x, mask, scale), (lambda g: k.dropout(g, mask, scale),)
