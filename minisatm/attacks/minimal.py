"""DeepFool: the shortest way over the nearest linear decision boundary, again and again."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..backend import array_module
from ..progress import steps as in_steps
from .arguments import attack
from .gradients import answer, length, per_sample, true_margin

Array = Any
STABILISER, OVERSHOOT = 1e-4, 0.02


@attack
def deepfool(network: Any, x: Array, y: Array, *, steps: int = 50, craft_mode: str = "eval") -> Array:
    """r += (|f_k| / ||w_k|| + 1e-4) * w_k / ||w_k|| for the nearest class k, until clip(x + 1.02 r) is misclassified.

    f_k and w_k: difference of class k's logit to that of y, and its gradient. No epsilon: the perturbation is as small
    as the linear model says (in L2). An image that is misclassified already stays as it is. The stabiliser keeps a step
    from vanishing at the boundary itself. Moosavi-Dezfooli et al. 2016, Algorithm 2 (but for it).
    """
    xp = array_module(x)
    y = xp.asarray(y)
    total, moved = np.zeros_like(x), x
    for _ in in_steps(steps, "deepfool"):
        logits, vjp = answer(network, moved, craft_mode=craft_mode)
        right = true_margin(logits, y) >= 0
        if not bool(right.any()):
            break
        total = total + _nearest(logits, vjp, y, moved).astype(x.dtype)
        moved = xp.where(per_sample(right, x), np.clip(x + (1 + OVERSHOOT) * total, 0, 1), moved)
    return moved


def _nearest(logits: Array, vjp: Any, y: Array, x: Array) -> Array:
    """The step over the nearest of the linear boundaries to the other classes."""
    xp = array_module(x)
    N, C = logits.shape
    own = (xp.arange(C) == y[:, None]).astype(logits.dtype)
    gradient_y, score_y = vjp(own), (logits * own).sum(axis=1)
    best, shortest = np.zeros_like(x), xp.full(N, np.inf, logits.dtype)
    for k in range(C):
        one = np.zeros_like(logits)
        one[:, k] = 1
        w, f = vjp(one) - gradient_y, abs(logits[:, k] - score_y)
        size = np.maximum(length(w), 1e-12)
        distance = xp.where(y == k, np.inf, f / size)
        nearer = distance < shortest
        step = per_sample((f / size + STABILISER) / size, x) * w
        best = xp.where(per_sample(nearer, x), step, best)
        shortest = np.minimum(distance, shortest)
    return best
