"""Softmax cross-entropy and binary cross-entropy, both on logits."""

from __future__ import annotations

import numpy as np

from ..backend import array_module, kernels, on_gpu
from ..errors import InputError
from ..tape import Array, Recorded
from ..tensor import op


def _reduce(loss: Array, gradient: Array, reduction: str) -> Recorded:
    """The reduced loss and its vjps (labels have none), from the loss of each sample (N,) and its gradient (N, ...)."""
    n, per_row = len(loss), (len(loss),) + (1,) * (gradient.ndim - 1)
    if reduction == "none":
        return loss, (lambda g: gradient * g.reshape(per_row), None)
    if reduction == "sum":
        return loss.sum(), (lambda g: gradient * g, None)
    if reduction == "mean":
        return loss.mean(), (lambda g: gradient * (g / n), None)
    raise ValueError(f"reduction {reduction!r}: choose one of none, sum, mean.")


@op
def softmax_cross_entropy(logits: Array, labels: Array, *, reduction: str = "mean") -> Recorded:
    """-log softmax(logits)[label], or -sum_c labels_c log softmax(logits)_c: logits (N, C), labels (N,) or (N, C).

    labels are class indices, or soft labels whose rows sum to one; they have no gradient. reduction "none" gives (N,),
    "sum" and "mean" give a scalar. The gradient to the logits is softmax(logits) - labels.
    """
    targets = one_hot(labels, logits) if labels.ndim == 1 else labels.astype(logits.dtype, copy=False)
    if logits.ndim != 2 or targets.shape != logits.shape:
        raise ValueError(f"logits (N, C) and labels (N,) or (N, C) do not fit: {logits.shape} and {labels.shape}.")
    loss, gradient = kernels(logits).softmax_cross_entropy(logits, targets)
    return _reduce(loss, gradient, reduction)


def one_hot(labels: Array, logits: Array) -> Array:
    """(N,) class indices -> (N, C) rows with a one, in the dtype of the logits; a label outside 0..C-1 is an error.

    To see the labels on a GPU, the host would have to wait: there such a label gives a row, and so a loss, of NaN.
    """
    (N, C), xp = logits.shape, array_module(logits)
    if labels.dtype.kind not in "iu" or labels.shape != (N,):
        raise InputError(f"class labels must be {N} integers, got {labels.dtype} {labels.shape}.")
    if on_gpu(labels):
        known = (labels >= 0) & (labels < C)
        return xp.where(known[:, None], labels[:, None] == xp.arange(C), np.nan).astype(logits.dtype)
    if N and not 0 <= int(labels.min()) <= int(labels.max()) < C:
        raise InputError(
            f"label {int(labels.max() if labels.max() >= C else labels.min())} is out of range: the network has {C} "
            f"classes, so labels must lie in 0..{C - 1}."
        )
    return xp.asarray(np.eye(C, dtype=logits.dtype)[labels])


@op
def binary_cross_entropy(logits: Array, targets: Array, *, reduction: str = "mean") -> Recorded:
    """-t log s(z) - (1 - t) log(1 - s(z)), s the logistic function: logits and targets (N,), targets in [0, 1].

    Computed as max(z, 0) - z t + log(1 + exp(-|z|)), which does not overflow and is exact for small losses.
    """
    if logits.shape != targets.shape or logits.ndim != 1:
        raise ValueError(f"logits and targets must both be (N,), got {logits.shape} and {targets.shape}.")
    targets = targets.astype(logits.dtype, copy=False)
    small = np.exp(-np.abs(logits))
    loss = np.maximum(logits, 0) - logits * targets + np.log1p(small)
    logistic = np.where(logits >= 0, 1, small) / (1 + small)
    return _reduce(loss, logistic - targets, reduction)
