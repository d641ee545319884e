"""Carlini and Wagner 2017: the smallest perturbation by optimisation, in the L2, L-infinity and L0 norm.

All minimise distance + c * f(x') by Adam, f(x') = max(Z_y - max_{i != y} Z_i, -confidence), over u with
x' = (tanh u + 1) / 2, which never leaves the pixel range. An image for which nothing was found comes back as it was.
Each image has a c of its own and stops on its own: the others of its batch change nothing.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..backend import array_module
from ..progress import steps as in_steps
from .arguments import attack
from .gradients import answer, margin_and_slope, per_sample

Array = Any
INSIDE = 0.999999  # of (-1, 1): tanh never reaches its ends
CHECKS = 10  # how often in a run an image may give up, as in the published code


@attack
def carlini_wagner_l2(
    network: Any, x: Array, y: Array, *, confidence: float = 0.0, steps: int = 200, learning_rate: float = 0.05,
    search_steps: int = 9, c: float = 1e-3, abort_early: bool = True, mask: Array = None, craft_mode: str = "eval",
) -> Array:  # fmt: skip
    """Their Section V.A: Adam on ||x' - x||_2^2 + c f(x'), with a binary search for the smallest c of each image.

    c: the first one; it grows tenfold until the image is fooled. abort_early: an image whose loss has not fallen by
    1e-4 of itself in a tenth of the steps waits for its next c. mask: 0 where a pixel may not change.
    """
    xp = array_module(x)
    y = xp.asarray(y)
    lower, upper = xp.zeros(len(x), x.dtype), xp.full(len(x), np.inf, x.dtype)
    weight, best, shortest = xp.full(len(x), c, x.dtype), x, upper
    for _ in in_steps(search_steps, "carlini_wagner_l2"):
        moved, distance = _nearest(
            network, x, y, weight, confidence, steps, learning_rate, abort_early, mask, craft_mode
        )  # fmt: skip
        found, better = distance < np.inf, distance < shortest
        best, shortest = xp.where(per_sample(better, x), moved, best), np.minimum(distance, shortest)
        upper, lower = xp.where(found, weight, upper), xp.where(found, lower, weight)
        weight = xp.where(upper < np.inf, (lower + xp.where(upper < np.inf, upper, 0)) / 2, 10 * weight)
    return best


def _nearest(
    network: Any, x: Array, y: Array, weight: Array, confidence: float, steps: int, rate: float, abort_early: bool,
    mask: Array, mode: str,
) -> tuple[Array, Array]:  # fmt: skip
    """The nearest example that a descent with these weights meets, and its squared distance: inf if none fools."""
    xp = array_module(x)
    best, shortest = x.copy(), xp.full(len(x), np.inf, x.dtype)
    last, own = xp.full(len(x), np.inf, x.dtype), xp.arange(len(x))  # own: the images still at work
    u = _Adam(_to_line(x), xp.full(len(x), rate, x.dtype))
    near, true, c, free = x, y, weight, mask
    for step in range(1, steps + 1):
        moved, slope = u.image()
        if mask is not None:
            moved, slope = xp.where(free > 0, moved, near), slope * free
        margin, f_slope = _f(network, moved, true, confidence, mode)
        away = moved - near
        distance = (away * away).reshape(len(away), -1).sum(axis=1)
        better = (margin < -confidence) & (distance < shortest[own])
        best[own[better]], shortest[own[better]] = moved[better], distance[better]
        u.step((2 * away + per_sample(c, away) * f_slope) * slope)
        if abort_early and step % max(1, steps // CHECKS) == 0:
            loss = distance + c * np.maximum(margin, -confidence)
            falling = loss <= 0.9999 * last[own]
            last[own], own = loss, own[falling]
            if not len(own):
                break
            u.keep(falling)
            near, true, c, free = x[own], y[own], weight[own], None if mask is None else mask[own]
    return best, shortest


@attack
def carlini_wagner_linf(
    network: Any, x: Array, y: Array, *, steps: int = 100, learning_rate: float = 0.4, c: float = 1e-3,
    largest_c: float = 20.0, craft_mode: str = "eval",
) -> Array:  # fmt: skip
    """Their Section V.C: Adam on sum_i max(|x'_i - x_i| - tau, 0) + c f(x'), for a tau that shrinks.

    tau begins at 1 and is 0.9 of the largest change (or of itself) after each success, the start of the next run; where
    a run of `steps` fails, c doubles, up to largest_c. An image is done when tau is below 1 / 256. learning_rate is for
    tau = 1 and shrinks with it, so that a step stays small beside what may change.
    """
    xp = array_module(x)
    y = xp.asarray(y)
    best, tau, weight = x.copy(), xp.ones(len(x), x.dtype), xp.full(len(x), c, x.dtype)
    most = math.ceil(math.log(256, 1 / 0.9)) + math.ceil(math.log2(max(largest_c / c, 1))) + 1
    for _ in in_steps(most, "carlini_wagner_linf"):
        own = xp.nonzero((tau > 1 / 256) & (weight <= largest_c))[0]
        if not len(own):
            break
        task = (x[own], y[own], best[own], tau[own], weight[own])
        moved, found = _inside(network, *task, steps, learning_rate, craft_mode)
        largest = abs(moved - x[own]).reshape(len(own), -1).max(axis=1)
        best[own] = xp.where(per_sample(found, x), moved, best[own])
        tau[own] = xp.where(found, 0.9 * np.minimum(tau[own], largest), tau[own])
        weight[own] = xp.where(found, weight[own], 2 * weight[own])
    return best


def _inside(
    network: Any, x: Array, y: Array, start: Array, tau: Array, weight: Array, steps: int, rate: float, mode: str
) -> tuple[Array, Array]:
    """The first examples on the way that change no pixel by more than tau, and for which images there is one."""
    xp = array_module(x)
    first, found = x.copy(), xp.zeros(len(x), bool)
    u, own = _Adam(_to_line(start), rate * tau), xp.arange(len(x))
    for _ in range(steps):
        moved, slope = u.image()
        margin, f_slope = _f(network, moved, y[own], 0.0, mode)
        away = moved - x[own]
        outside = abs(away) > per_sample(tau[own], x)
        done = (margin < 0) & ~outside.reshape(len(own), -1).any(axis=1)
        u.step((np.sign(away) * outside + per_sample(weight[own], x) * f_slope) * slope)
        first[own[done]], found[own[done]] = moved[done], True
        if bool(done.any()):
            u.keep(~done)
            own = own[~done]
        if not len(own):
            break
    return first, found


@attack
def carlini_wagner_l0(
    network: Any, x: Array, y: Array, *, rounds: int = 20, share: float = 0.3, steps: int = 100, search_steps: int = 3,
    learning_rate: float = 0.05, c: float = 1.0, craft_mode: str = "eval",
) -> Array:  # fmt: skip
    """Their Section V.B: the L2 attack again and again, each time freezing the pixels that matter least.

    Those are the free pixels with the smallest gradient times change, g_i delta_i: a `share` of them a round; where the
    rest does not fool, half as many are frozen instead. A pixel is all channels of a place.
    """
    xp = array_module(x)
    y, best, own = xp.asarray(y), x.copy(), xp.arange(len(x))  # own: the images still at work
    free = xp.ones((len(x), x[..., 0].size // len(x)), x.dtype)
    tried, matters, shares = free.copy(), xp.zeros_like(free), xp.full(len(x), share, x.dtype)
    for _ in in_steps(rounds, "carlini_wagner_l0"):
        mask = tried[own].reshape(len(own), *x.shape[1:3], 1) + 0 * x[own]
        moved = carlini_wagner_l2(
            network, x[own], y[own], steps=steps, search_steps=search_steps, learning_rate=learning_rate, c=c,
            mask=mask, craft_mode=craft_mode,
        )  # fmt: skip
        margin, slope = _f(network, moved, y[own], np.inf, craft_mode)
        fooled = margin < 0
        now = (abs(slope) * abs(moved - x[own])).sum(axis=3).reshape(len(own), -1)
        won = own[fooled]
        best[won], free[won], matters[won] = moved[fooled], tried[won], now[fooled]
        shares[own] = xp.where(fooled, shares[own], shares[own] / 2)
        rank = xp.where(free[own] > 0, matters[own], np.inf).argsort(axis=1).argsort(axis=1)
        tried[own] = free[own] * (rank >= np.maximum(1, shares[own] * free[own].sum(axis=1))[:, None])
        own = own[matters[own].any(axis=1) & tried[own].any(axis=1)]  # not where all pixels do not fool, or one is left
        if not len(own):
            break
    return best


def _f(network: Any, x: Array, y: Array, confidence: float, mode: str) -> tuple[Array, Array]:
    """Z_y - max_{i != y} Z_i, (N,), and the gradient of f = max(it, -confidence) to x."""
    logits, vjp = answer(network, x, craft_mode=mode)
    margin, slope = margin_and_slope(logits, y)
    return margin, vjp(slope * (margin >= -confidence)[:, None])


def _to_line(x: Array) -> Array:
    """u with (tanh u + 1) / 2 = x."""
    return np.arctanh((2 * x - 1) * INSIDE)


class _Adam:
    """Kingma and Ba 2015, for the attack's own variable u; each image has a rate of its own."""

    def __init__(self, u: Array, rate: Array) -> None:
        self.u, self.m, self.v = u, np.zeros_like(u), np.zeros_like(u)
        self.rate, self.steps = rate, 0

    def image(self) -> tuple[Array, Array]:
        """x' and dx'/du."""
        tanh = np.tanh(self.u)
        return (tanh + 1) / 2, (1 - tanh * tanh) / 2

    def step(self, g: Array) -> None:
        self.steps += 1
        self.m += 0.1 * (g - self.m)
        self.v += 0.001 * (g * g - self.v)
        m, v = self.m / (1 - 0.9**self.steps), self.v / (1 - 0.999**self.steps)
        self.u -= per_sample(self.rate, m) * m / (np.sqrt(v) + 1e-8)

    def keep(self, images: Array) -> None:
        """Go on with these alone."""
        self.u, self.m, self.v, self.rate = self.u[images], self.m[images], self.v[images], self.rate[images]
