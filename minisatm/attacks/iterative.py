"""Attacks of several gradient steps inside a ball around the image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..backend import array_module
from .arguments import checked_attack, checked_noise, required_rng
from .gradients import input_gradient, least_likely, length, logits_of, loss_gradient, per_sample, true_margin
from .single_step import scaled_gradient

Array = Any
Rng = np.random.Generator


def projected(x_adv: Array, x: Array, epsilon: float, norm: str = "linf") -> Array:
    """x_adv, moved to the nearest point of the ball of radius epsilon around x, then clipped to [0, 1]."""
    if norm == "linf":
        return np.clip(np.clip(x_adv, x - epsilon, x + epsilon), 0, 1)
    change = x_adv - x
    factor = np.minimum(epsilon / np.maximum(length(change), 1e-30), 1)
    return np.clip(x + change * per_sample(factor, x), 0, 1)


@checked_attack
def iterative_fgsm(
    network: Any, x: Array, y: Array, *, epsilon: float = 16 / 256, step: float | None = None, steps: int = 10,
    loss: str = "cross_entropy", craft_mode: str = "eval",
) -> Array:  # fmt: skip
    """`steps` steps along sign(grad J), each projected into the ball; `step` is epsilon / 4 unless given.

    Kurakin et al. 2017.
    """
    x_adv = x
    for _ in range(steps):
        g = input_gradient(network, x_adv, y, loss=loss, craft_mode=craft_mode)
        x_adv = projected(x_adv + (epsilon / 4 if step is None else step) * np.sign(g), x, epsilon)
    return x_adv


@checked_attack
def iterative_ll(
    network: Any, x: Array, y: Array, *, epsilon: float = 16 / 256, step: float | None = None, steps: int = 10,
    craft_mode: str = "eval",
) -> Array:  # fmt: skip
    """Steps towards the class that is least likely for the clean x; y is not used. Kurakin et al. 2017."""
    x_adv, y_ll = x, least_likely(network, x, craft_mode=craft_mode)
    for _ in range(steps):
        g = input_gradient(network, x_adv, y_ll, craft_mode=craft_mode)
        x_adv = projected(x_adv - (epsilon / 4 if step is None else step) * np.sign(g), x, epsilon)
    return x_adv


@checked_attack
def pgd(
    network: Any, x: Array, y: Array, *, epsilon: float = 16 / 256, step: float | None = None, steps: int = 10,
    restarts: int = 1, norm: str = "linf", loss: str = "cross_entropy", rng: Rng | None = None, noise: Array = None,
    craft_mode: str = "eval",
) -> Array:  # fmt: skip
    """Projected gradient steps from a random start in the ball: Madry et al. 2018.

    norm: "linf", or "l2": then epsilon is an L2 length, and a step goes along the gradient itself. With several
    restarts, each image keeps the result with the smallest margin Z_y - max_{i != y} Z_i. The starts are drawn from
    rng, or are x + epsilon * noise: noise (N, H, W, C) or (N, restarts, H, W, C), in the ball of radius 1 of the norm.
    """
    best, smallest = x, array_module(x).full(len(x), np.inf, x.dtype)
    noise = draw_starts(x, rng=rng, restarts=restarts, norm=norm) if noise is None else noise
    several = (len(x), restarts, *x.shape[1:])
    checked_noise(noise, x.shape if restarts == 1 and noise.ndim == x.ndim else several)
    starts = array_module(x).asarray(noise, x.dtype).reshape(several)
    for start in starts.swapaxes(0, 1):
        x_adv = projected(x + epsilon * start, x, epsilon, norm)
        for _ in range(steps):
            g = input_gradient(network, x_adv, y, loss=loss, craft_mode=craft_mode)
            direction = np.sign(g) if norm == "linf" else scaled_gradient(g, "l2")
            x_adv = projected(x_adv + (epsilon / 4 if step is None else step) * direction, x, epsilon, norm)
        margin = true_margin(logits_of(network, x_adv, craft_mode=craft_mode), y)
        best = array_module(x).where(per_sample(margin < smallest, x), x_adv, best)
        smallest = np.minimum(margin, smallest)
    return best


def draw_starts(x: Array, *, rng: Rng | None, restarts: int, norm: str) -> Array:
    """Uniform noise in the ball of radius 1, (N, restarts, H, W, C), a NumPy array.

    Each restart draws from a generator of its own, image by image: so the first images get the same noise however many
    images follow.
    """
    points = []
    for restart in required_rng(rng).spawn(restarts):
        if norm == "linf":
            points.append(restart.uniform(-1, 1, x.shape))
        else:  # all but two coordinates of a point on a sphere are uniform in the ball (Voelker et al. 2017)
            sphere = restart.standard_normal((len(x), x[0].size + 2))
            sphere /= np.linalg.norm(sphere, axis=1, keepdims=True)
            points.append(sphere[:, :-2].reshape(x.shape))
    return np.stack(points, axis=1)


@checked_attack
def momentum_fgsm(
    network: Any, x: Array, y: Array, *, epsilon: float = 16 / 256, step: float | None = None, steps: int = 10,
    decay: float = 1.0, loss: str = "cross_entropy", craft_mode: str = "eval",
) -> Array:  # fmt: skip
    """m = decay * m + gradient / ||gradient||_1 for each image, and a step along sign(m). Dong et al. 2018.

    network: one network, or a sequence of several, whose logits are averaged before the loss.
    """
    networks = list(network) if isinstance(network, Sequence) else [network]
    x_adv, momentum = x, np.zeros_like(x)
    for _ in range(steps):
        g = loss_gradient(networks, x_adv, y, loss=loss, craft_mode=craft_mode)
        total = abs(g).reshape(len(g), -1).sum(axis=1)
        momentum = decay * momentum + g / per_sample(np.where(total > 0, total, 1), g)
        x_adv = projected(x_adv + (epsilon / 4 if step is None else step) * np.sign(momentum), x, epsilon)
    return x_adv
