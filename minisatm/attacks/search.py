"""Attacks that need no gradient, or only that of two logits."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..backend import array_module
from ..progress import steps as in_steps
from .arguments import attack, given
from .gradients import logits_of, per_sample, true_margin
from .iterative import within
from .single_step import fast_gradient_value

Array = Any


@attack
def hot_cold(network: Any, x: Array, y: Array, *, epsilon: float = 16 / 256, craft_mode: str = "eval") -> Array:
    """clip(x + epsilon * g / max |g|), g the gradient of the hot class's logit less the cold class's.

    Cold is y, hot the most likely of the other classes. Rozsa et al. 2016.
    """
    settings = dict(scale="max", loss="margin", craft_mode=craft_mode)
    return fast_gradient_value(network, x, y, epsilon=epsilon, **settings)


@attack
def square(
    network: Any, x: Array, y: Array, *, epsilon: float = 16 / 256, steps: int = 200, first: float = 0.3,
    rng: np.random.Generator | None = None, craft_mode: str = "eval",
) -> Array:  # fmt: skip
    """Squares of +-epsilon at random places, kept where they lower the margin: after Andriushchenko et al. 2020.

    A control without gradients: where it does better than gradient attacks, the gradients are masked. The squares' side
    begins at the root of `first` of the image and shrinks to a pixel.
    """
    xp, (N, H, W, C) = array_module(x), x.shape
    streams = given(rng).spawn(N)  # an image's draws do not depend on how many come after it
    stripes = np.stack([2.0 * own.integers(0, 2, (1, W, C)) - 1 for own in streams])  # vertical ones
    moved = within(x + xp.asarray(epsilon * stripes, x.dtype), x, epsilon)
    margin = true_margin(logits_of(network, moved, craft_mode=craft_mode), y)
    for step in in_steps(steps, "square"):
        side = max(1, round(np.sqrt(first * (1 - step / steps) ** 2 * H * W)))
        tall, wide = min(side, H), min(side, W)
        change = np.zeros((N, H, W, C))
        for image, own in zip(change, streams):
            top, left = own.integers(0, H - tall + 1), own.integers(0, W - wide + 1)
            image[top : top + tall, left : left + wide] = 2.0 * own.integers(0, 2, C) - 1
        change = xp.asarray(change, x.dtype)
        tried = xp.where(change != 0, within(x + epsilon * change, x, epsilon), moved)
        found = true_margin(logits_of(network, tried, craft_mode=craft_mode), y)
        better = (found < margin) & (margin >= 0)
        moved, margin = xp.where(per_sample(better, x), tried, moved), xp.where(better, found, margin)
    return moved
