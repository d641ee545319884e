"""Carlini and Wagner 2017: the smallest perturbation by optimisation, in the L2, L-infinity and L0 norm.

All minimise distance + c * max(Z_y - max_{i != y} Z_i, -confidence) over u with x' = (tanh u + 1) / 2, which never
leaves the pixel range. An image for which nothing was found comes back as it was.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..backend import array_module
from .gradients import answer, check, per_sample
from .iterative import true_margin

Array = Any
INSIDE = 0.999999  # of (-1, 1): tanh never reaches its ends


def carlini_wagner_l2(
    network: Any, x: Array, y: Array, *, confidence: float = 0.0, steps: int = 200, learning_rate: float = 0.01,
    search_steps: int = 9, c: float = 1e-3, mask: Array = None, craft_mode: str = "eval",
) -> Array:  # fmt: skip
    """Their Section V.A: Adam on ||x' - x||_2^2 + c f(x'), with a binary search for the smallest c of each image.

    mask: 1 where a pixel may change, 0 where it may not (the L0 attack freezes pixels so).
    """
    check(x, y)
    xp = array_module(x)
    free = 1 if mask is None else mask
    start = np.arctanh((2 * x - 1) * INSIDE)
    lower, upper = xp.zeros(len(x), x.dtype), xp.full(len(x), np.inf, x.dtype)
    weight = xp.full(len(x), c, x.dtype)
    best, shortest = x, xp.full(len(x), np.inf, x.dtype)
    for _ in range(search_steps):
        found = xp.zeros(len(x), bool)
        optimise = _Adam(start, learning_rate)
        for _ in range(steps):
            tanh = np.tanh(optimise.u)
            moved = xp.where(free > 0, (tanh + 1) / 2, x) if mask is not None else (tanh + 1) / 2
            margin, slope = _hinge(network, moved, y, confidence, craft_mode)
            distance = ((moved - x) ** 2).reshape(len(x), -1).sum(axis=1)
            fooled = margin < -confidence
            better = fooled & (distance < shortest)
            best = xp.where(per_sample(better, x), moved, best)
            shortest, found = xp.where(better, distance, shortest), found | fooled
            g = 2 * (moved - x) + per_sample(weight, x) * slope
            optimise.step(g * (1 - tanh * tanh) / 2 * free)
        upper, lower = xp.where(found, np.minimum(weight, upper), upper), xp.where(found, lower, weight)
        middle = (lower + xp.where(upper < np.inf, upper, lower)) / 2
        weight = xp.where(upper < np.inf, middle, 10 * weight)
    return best


def carlini_wagner_linf(
    network: Any, x: Array, y: Array, *, steps: int = 100, learning_rate: float = 0.01, c: float = 1.0,
    shrinkings: int = 20, craft_mode: str = "eval",
) -> Array:  # fmt: skip
    """Their Section V.C: sum of max(|x' - x| - tau, 0) + c f(x'); tau shrinks by 0.9 each time the image is fooled."""
    check(x, y)
    xp = array_module(x)
    tau, best = xp.ones(len(x), x.dtype), x
    start = np.arctanh((2 * x - 1) * INSIDE)
    for _ in range(shrinkings):
        optimise, found = _Adam(start, learning_rate), xp.zeros(len(x), bool)
        for _ in range(steps):
            tanh = np.tanh(optimise.u)
            moved = (tanh + 1) / 2
            margin, slope = _hinge(network, moved, y, 0.0, craft_mode)
            away = moved - x
            largest = abs(away).reshape(len(x), -1).max(axis=1)
            better = (margin < 0) & (largest <= tau)
            best = xp.where(per_sample(better, x), moved, best)
            tau, found = xp.where(better, 0.9 * largest, tau), found | better
            outside = np.sign(away) * (abs(away) > per_sample(tau, x))
            optimise.step((outside + c * slope) * (1 - tanh * tanh) / 2)
        if not bool(found.any()):
            break
    return best


def carlini_wagner_l0(
    network: Any, x: Array, y: Array, *, rounds: int = 20, share: float = 0.3, craft_mode: str = "eval", **l2: Any
) -> Array:
    """Their Section V.B: the L2 attack again and again, each time freezing the pixels that matter least.

    Those are the changed pixels with the smallest gradient times change, g_i delta_i: a `share` of them a round. The
    last example that still fools is kept. A pixel is all channels of a place.
    """
    check(x, y)
    xp = array_module(x)
    mask, best = xp.ones((*x.shape[:3], 1), x.dtype), x
    alive = xp.ones(len(x), bool)
    for _ in range(rounds):
        moved = carlini_wagner_l2(network, x, y, mask=mask * xp.ones_like(x), craft_mode=craft_mode, **l2)
        margin, slope = _hinge(network, moved, y, 0.0, craft_mode)
        alive = alive & (margin < 0)
        best = xp.where(per_sample(alive, x), moved, best)
        if not bool(alive.any()):
            break
        matters = (abs(slope) * abs(moved - x)).sum(axis=3, keepdims=True)
        matters = xp.where(mask > 0, matters, np.inf).reshape(len(x), -1)
        count = (mask.reshape(len(x), -1) > 0).sum(axis=1)
        rank = matters.argsort(axis=1).argsort(axis=1)
        frozen = rank < np.maximum(1, (share * count).astype(count.dtype))[:, None]
        mask = mask * (1 - frozen.reshape(mask.shape)).astype(x.dtype)
    return best


def _hinge(network: Any, x: Array, y: Array, confidence: float, craft_mode: str) -> tuple[Array, Array]:
    """Z_y - max_{i != y} Z_i, (N,), and the gradient of max(it, -confidence) to x."""
    xp = array_module(x)
    logits, vjp = answer(network, x, craft_mode=craft_mode)
    own = xp.arange(logits.shape[1]) == xp.asarray(y)[:, None]
    other = xp.where(own, -np.inf, logits).argmax(axis=1)  # -inf, not 0: logits may all be below zero
    margin = true_margin(logits, y)
    g = own.astype(logits.dtype) - (xp.arange(logits.shape[1]) == other[:, None])
    return margin, vjp(g * (margin > -confidence)[:, None])


class _Adam:
    """Kingma and Ba 2015, for the attack's own variable."""

    def __init__(self, start: Array, rate: float) -> None:
        self.u, self.rate, self.steps = start, rate, 0
        self.m, self.v = np.zeros_like(start), np.zeros_like(start)

    def step(self, g: Array) -> None:
        self.steps += 1
        self.m = 0.9 * self.m + 0.1 * g
        self.v = 0.999 * self.v + 0.001 * g * g
        m, v = self.m / (1 - 0.9**self.steps), self.v / (1 - 0.999**self.steps)
        self.u = self.u - self.rate * m / (np.sqrt(v) + 1e-8)
