"""Carlini and Wagner 2017: the smallest perturbation by optimisation, in the L2, L-infinity and L0 norm.

All minimise distance + c * f(x') by Adam, with f(x') = max(Z_y - max_{i != y} Z_i, -confidence), over u with
x' = (tanh u + 1) / 2, which stays in [0, 1]. Each image has its own c and stops by itself: the other images of its
batch change nothing. An image for which no example was found comes back unchanged.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..backend import array_module
from .arguments import checked_attack
from .gradients import logits_and_vjp, margin_and_slope, per_sample

Array = Any
INSIDE = 0.999999  # 2x - 1 is shrunk by this: arctanh is infinite at -1 and 1
CHECKS = 10  # how often in a descent an image may stop early, as in the published code


@checked_attack
def carlini_wagner_l2(
    network: Any, x: Array, y: Array, *, confidence: float = 0.0, steps: int = 200, learning_rate: float = 0.05,
    search_steps: int = 9, c: float = 1e-3, abort_early: bool = True, mask: Array = None, craft_mode: str = "eval",
) -> Array:  # fmt: skip
    """Their Section V.A: Adam on ||x' - x||_2^2 + c f(x'), with a binary search for the smallest c of each image.

    c: the first value; it grows tenfold until the image is fooled. abort_early: after each tenth of the steps, an image
    whose loss has not fallen by a share of 1e-4 stops until the next c. mask: 0 where a pixel may not change.
    """
    xp = array_module(x)
    y = xp.asarray(y)
    lower, upper = xp.zeros(len(x), x.dtype), xp.full(len(x), np.inf, x.dtype)
    weight, best, shortest = xp.full(len(x), c, x.dtype), x, upper
    settings = confidence, steps, learning_rate, abort_early, mask, craft_mode
    for _ in range(search_steps):
        x_adv, distance = _descend_l2(network, x, y, weight, *settings)
        fooled, better = distance < np.inf, distance < shortest
        best, shortest = xp.where(per_sample(better, x), x_adv, best), np.minimum(distance, shortest)
        upper, lower = xp.where(fooled, weight, upper), xp.where(fooled, lower, weight)
        weight = xp.where(upper < np.inf, (lower + xp.where(upper < np.inf, upper, 0)) / 2, 10 * weight)
    return best


def _descend_l2(
    network: Any, x: Array, y: Array, weight: Array, confidence: float, steps: int, rate: float, abort_early: bool,
    mask: Array, mode: str,
) -> tuple[Array, Array]:  # fmt: skip
    """The nearest example on the way of a descent with c = weight, and its squared distance: inf if none fools."""
    xp = array_module(x)
    best, shortest = x.copy(), xp.full(len(x), np.inf, x.dtype)
    last_loss, active = xp.full(len(x), np.inf, x.dtype), xp.arange(len(x))  # active: the images not yet stopped
    u = _Adam(x, xp.full(len(x), rate, x.dtype))
    x_now, y_now, c, free = x, y, weight, mask
    for step in range(1, steps + 1):
        x_adv, slope = u.image()
        if mask is not None:
            x_adv, slope = xp.where(free > 0, x_adv, x_now), slope * free
        margin, f_slope = _f(network, x_adv, y_now, confidence, mode)
        change = x_adv - x_now
        distance = (change * change).reshape(len(change), -1).sum(axis=1)
        better = (margin < -confidence) & (distance < shortest[active])
        best[active[better]], shortest[active[better]] = x_adv[better], distance[better]
        u.step((2 * change + per_sample(c, change) * f_slope) * slope)
        if abort_early and step % max(1, steps // CHECKS) == 0:
            loss = distance + c * np.maximum(margin, -confidence)
            falling = loss <= 0.9999 * last_loss[active]
            last_loss[active], active = loss, active[falling]
            if not len(active):
                break
            u.keep(falling)
            x_now, y_now, c, free = x[active], y[active], weight[active], None if mask is None else mask[active]
    return best, shortest


@checked_attack
def carlini_wagner_linf(
    network: Any, x: Array, y: Array, *, steps: int = 100, learning_rate: float = 0.4, c: float = 1e-3,
    largest_c: float = 20.0, craft_mode: str = "eval",
) -> Array:  # fmt: skip
    """Their Section V.C: Adam on sum_i max(|x'_i - x_i| - tau, 0) + c f(x'), for a tau that shrinks.

    tau is the allowed change of a pixel. It begins at 1; after each success it becomes 0.9 times the largest change (or
    0.9 tau, if that is smaller), and the next descent starts from the example found. Where a descent of `steps` steps
    fails, c doubles, up to largest_c. An image is done when tau is at most 1 / 256. learning_rate is multiplied by tau,
    so that a step stays small beside the allowed change.
    """
    xp = array_module(x)
    y = xp.asarray(y)
    best, tau, weight = x.copy(), xp.ones(len(x), x.dtype), xp.full(len(x), c, x.dtype)
    most = math.ceil(math.log(256, 1 / 0.9)) + math.ceil(math.log2(max(largest_c / c, 1))) + 1
    for _ in range(most):
        active = xp.nonzero((tau > 1 / 256) & (weight <= largest_c))[0]
        if not len(active):
            break
        task = (x[active], y[active], best[active], tau[active], weight[active])
        x_adv, fooled = _descend_linf(network, *task, steps, learning_rate, craft_mode)
        largest = abs(x_adv - x[active]).reshape(len(active), -1).max(axis=1)
        best[active] = xp.where(per_sample(fooled, x), x_adv, best[active])
        tau[active] = xp.where(fooled, 0.9 * np.minimum(tau[active], largest), tau[active])
        weight[active] = xp.where(fooled, weight[active], 2 * weight[active])
    return best


def _descend_linf(
    network: Any, x: Array, y: Array, start: Array, tau: Array, weight: Array, steps: int, rate: float, mode: str
) -> tuple[Array, Array]:
    """Each image's first example that changes no pixel by more than tau, and which images have one, (N,) booleans."""
    xp = array_module(x)
    first, fooled = x.copy(), xp.zeros(len(x), bool)
    u, active = _Adam(start, rate * tau), xp.arange(len(x))
    for _ in range(steps):
        x_adv, slope = u.image()
        margin, f_slope = _f(network, x_adv, y[active], 0.0, mode)
        change = x_adv - x[active]
        outside = abs(change) > per_sample(tau[active], x)
        done = (margin < 0) & ~outside.reshape(len(active), -1).any(axis=1)
        u.step((np.sign(change) * outside + per_sample(weight[active], x) * f_slope) * slope)
        first[active[done]], fooled[active[done]] = x_adv[done], True
        if bool(done.any()):
            u.keep(~done)
            active = active[~done]
        if not len(active):
            break
    return first, fooled


@checked_attack
def carlini_wagner_l0(
    network: Any, x: Array, y: Array, *, rounds: int = 20, share: float = 0.3, steps: int = 100, search_steps: int = 3,
    learning_rate: float = 0.05, c: float = 1.0, craft_mode: str = "eval",
) -> Array:  # fmt: skip
    """Their Section V.B: the L2 attack in rounds; after each one the pixels that matter least are frozen.

    Those are the free pixels with the smallest |gradient * change|: a `share` of them each round. Where the pixels that
    are left do not fool the network, half as many are frozen instead. A pixel is all channels of one place.
    """
    xp = array_module(x)
    y, best, active = xp.asarray(y), x.copy(), xp.arange(len(x))  # active: the images not yet stopped
    free = xp.ones((len(x), x[..., 0].size // len(x)), x.dtype)
    options = dict(steps=steps, search_steps=search_steps, learning_rate=learning_rate, c=c, craft_mode=craft_mode)
    tried, matters, shares = free.copy(), xp.zeros_like(free), xp.full(len(x), share, x.dtype)
    for _ in range(rounds):
        mask = tried[active].reshape(len(active), *x.shape[1:3], 1) + 0 * x[active]  # + 0 * x: for every channel
        x_adv = carlini_wagner_l2(network, x[active], y[active], mask=mask, **options)
        margin, slope = _f(network, x_adv, y[active], np.inf, craft_mode)
        fooled = margin < 0
        effect = (abs(slope) * abs(x_adv - x[active])).sum(axis=3).reshape(len(active), -1)
        won = active[fooled]
        best[won], free[won], matters[won] = x_adv[fooled], tried[won], effect[fooled]
        shares[active] = xp.where(fooled, shares[active], shares[active] / 2)
        rank = xp.where(free[active] > 0, matters[active], np.inf).argsort(axis=1).argsort(axis=1)
        kept = rank >= np.maximum(1, shares[active] * free[active].sum(axis=1))[:, None]
        tried[active] = free[active] * kept
        # stop where even all pixels do not fool (nothing matters yet), and where no pixel is left to try
        active = active[matters[active].any(axis=1) & tried[active].any(axis=1)]
        if not len(active):
            break
    return best


def _f(network: Any, x: Array, y: Array, confidence: float, mode: str) -> tuple[Array, Array]:
    """The margin Z_y - max_{i != y} Z_i, (N,), and the gradient of f = max(margin, -confidence) with respect to x."""
    logits, vjp = logits_and_vjp(network, x, craft_mode=mode)
    margin, slope = margin_and_slope(logits, y)
    return margin, vjp(slope * (margin >= -confidence)[:, None])


class _Adam:
    """Adam (Kingma and Ba 2015) on u, from (tanh u + 1) / 2 = x, with one learning rate for each image."""

    def __init__(self, x: Array, rate: Array) -> None:
        self.u, self.m, self.v = np.arctanh((2 * x - 1) * INSIDE), np.zeros_like(x), np.zeros_like(x)
        self.rate, self.steps = rate, 0

    def image(self) -> tuple[Array, Array]:
        """x' = (tanh u + 1) / 2 and its slope dx'/du."""
        tanh = np.tanh(self.u)
        return (tanh + 1) / 2, (1 - tanh * tanh) / 2

    def step(self, g: Array) -> None:
        self.steps += 1
        self.m += 0.1 * (g - self.m)
        self.v += 0.001 * (g * g - self.v)
        m, v = self.m / (1 - 0.9**self.steps), self.v / (1 - 0.999**self.steps)
        self.u -= per_sample(self.rate, m) * m / (np.sqrt(v) + 1e-8)

    def keep(self, images: Array) -> None:
        """Drop all other images."""
        self.u, self.m, self.v, self.rate = self.u[images], self.m[images], self.v[images], self.rate[images]
