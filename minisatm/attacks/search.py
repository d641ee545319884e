"""Attacks with less than the gradient of the loss: that of two logits, or none."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..backend import array_module
from .arguments import checked_attack, required_rng
from .gradients import logits_of, per_sample, true_margin
from .iterative import projected
from .single_step import fast_gradient_value

Array = Any


@checked_attack
def hot_cold(network: Any, x: Array, y: Array, *, epsilon: float = 16 / 256, craft_mode: str = "eval") -> Array:
    """clip(x + epsilon * g / max |g|), where g is the gradient of (logit of the hot class - logit of the cold class).

    Cold is y, hot is the most likely of the other classes. Rozsa et al. 2016.
    """
    return fast_gradient_value(network, x, y, epsilon=epsilon, scale="max", loss="margin", craft_mode=craft_mode)


@checked_attack
def square(
    network: Any, x: Array, y: Array, *, epsilon: float = 16 / 256, steps: int = 200, first: float = 0.3,
    rng: np.random.Generator | None = None, craft_mode: str = "eval",
) -> Array:  # fmt: skip
    """Squares of +-epsilon at random places, kept where they lower the margin: after Andriushchenko et al. 2020.

    A control without gradients: where it fools more images than gradient attacks do, the gradients are masked. `first`
    is the share of the image that the first square covers; the squares shrink to one pixel.
    """
    xp, (N, H, W, C) = array_module(x), x.shape
    streams = required_rng(rng).spawn(N)  # one for each image: its draws do not depend on how many images follow
    stripes = np.stack([2.0 * rng_i.integers(0, 2, (1, W, C)) - 1 for rng_i in streams])  # vertical ones, at the start
    x_adv = projected(x + xp.asarray(epsilon * stripes, x.dtype), x, epsilon)
    margin = true_margin(logits_of(network, x_adv, craft_mode=craft_mode), y)
    for step in range(steps):
        side = max(1, round(np.sqrt(first * (1 - step / steps) ** 2 * H * W)))
        height, width = min(side, H), min(side, W)
        signs = np.zeros((N, H, W, C))
        for image, rng_i in zip(signs, streams):
            top, left = rng_i.integers(0, H - height + 1), rng_i.integers(0, W - width + 1)
            image[top : top + height, left : left + width] = 2.0 * rng_i.integers(0, 2, C) - 1
        signs = xp.asarray(signs, x.dtype)
        candidate = xp.where(signs != 0, projected(x + epsilon * signs, x, epsilon), x_adv)
        new_margin = true_margin(logits_of(network, candidate, craft_mode=craft_mode), y)
        better = (new_margin < margin) & (margin >= 0)
        x_adv, margin = xp.where(per_sample(better, x), candidate, x_adv), xp.where(better, new_margin, margin)
    return x_adv
