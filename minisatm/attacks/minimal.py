"""DeepFool: the shortest step over the nearest decision boundary of a linear model, repeated."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..backend import array_module
from .arguments import checked_attack
from .gradients import length, logits_and_vjp, per_sample, true_margin

Array = Any
STABILISER, OVERSHOOT = 1e-4, 0.02


@checked_attack
def deepfool(network: Any, x: Array, y: Array, *, steps: int = 50, craft_mode: str = "eval") -> Array:
    """r += (|f_k| / ||w_k|| + 1e-4) * w_k / ||w_k|| for the nearest class k, until clip(x + 1.02 r) is misclassified.

    f_k is the logit of class k less that of y, and w_k its gradient. There is no epsilon: r is as short (in L2) as the
    linear model allows. An image that is misclassified already stays as it is. Moosavi-Dezfooli et al. 2016, Algorithm
    2; the 1e-4 is not theirs: without it the steps become 0 at the boundary.
    """
    xp = array_module(x)
    y = xp.asarray(y)
    r, x_adv = np.zeros_like(x), x
    for _ in range(steps):
        logits, vjp = logits_and_vjp(network, x_adv, craft_mode=craft_mode)
        right = true_margin(logits, y) >= 0
        if not bool(right.any()):
            break
        r = r + _step_over_nearest_boundary(logits, vjp, y, x_adv).astype(x.dtype)
        x_adv = xp.where(per_sample(right, x), np.clip(x + (1 + OVERSHOOT) * r, 0, 1), x_adv)
    return x_adv


def _step_over_nearest_boundary(logits: Array, vjp: Any, y: Array, x: Array) -> Array:
    """The shortest step, (N, H, W, C), over one of the linear boundaries between y and the other classes."""
    xp = array_module(x)
    N, C = logits.shape
    true = (xp.arange(C) == y[:, None]).astype(logits.dtype)
    gradient_y, logit_y = vjp(true), (logits * true).sum(axis=1)
    best, shortest = np.zeros_like(x), xp.full(N, np.inf, logits.dtype)
    for k in range(C):
        one_hot = np.zeros_like(logits)
        one_hot[:, k] = 1
        w, f = vjp(one_hot) - gradient_y, abs(logits[:, k] - logit_y)
        size = np.maximum(length(w), 1e-12)
        distance = xp.where(y == k, np.inf, f / size)
        step = per_sample((f / size + STABILISER) / size, x) * w
        best = xp.where(per_sample(distance < shortest, x), step, best)
        shortest = np.minimum(distance, shortest)
    return best
