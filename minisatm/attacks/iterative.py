"""Attacks of several steps inside a ball around the image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ..backend import array_module
from ..progress import steps as in_steps
from .arguments import attack, fitting, given
from .gradients import input_gradient, least_likely, length, logits_of, loss_gradient, per_sample, true_margin
from .single_step import along

Array = Any


def within(moved: Array, x: Array, epsilon: float, norm: str = "linf") -> Array:
    """The nearest point of the ball of radius epsilon round x, then of the pixel range [0, 1]."""
    if norm == "linf":
        return np.clip(np.clip(moved, x - epsilon, x + epsilon), 0, 1)
    away = moved - x
    inside = np.minimum(epsilon / np.maximum(length(away), 1e-30), 1)
    return np.clip(x + away * per_sample(inside, x), 0, 1)


@attack
def iterative_fgsm(
    network: Any, x: Array, y: Array, *, epsilon: float = 16 / 256, step: float | None = None, steps: int = 10,
    loss: str = "cross_entropy", craft_mode: str = "eval",
) -> Array:  # fmt: skip
    """`steps` steps of `step` (epsilon / 4 unless given) up the loss, each back into the ball: Kurakin et al. 2017."""
    moved = x
    for _ in in_steps(steps, "iterative_fgsm"):
        g = input_gradient(network, moved, y, loss=loss, craft_mode=craft_mode)
        moved = within(moved + (epsilon / 4 if step is None else step) * np.sign(g), x, epsilon)
    return moved


@attack
def iterative_ll(
    network: Any, x: Array, y: Array, *, epsilon: float = 16 / 256, step: float | None = None, steps: int = 10,
    craft_mode: str = "eval",
) -> Array:  # fmt: skip
    """Steps towards the class least likely for the clean x; y is not used. Kurakin et al. 2017."""
    moved, y_ll = x, least_likely(network, x, craft_mode=craft_mode)
    for _ in in_steps(steps, "iterative_ll"):
        g = input_gradient(network, moved, y_ll, craft_mode=craft_mode)
        moved = within(moved - (epsilon / 4 if step is None else step) * np.sign(g), x, epsilon)
    return moved


@attack
def pgd(
    network: Any, x: Array, y: Array, *, epsilon: float = 16 / 256, step: float | None = None, steps: int = 10,
    restarts: int = 1, norm: str = "linf", loss: str = "cross_entropy", rng: np.random.Generator | None = None,
    noise: Array = None, craft_mode: str = "eval",
) -> Array:  # fmt: skip
    """Projected gradient steps from a random start in the ball, the best of several starts: Madry et al. 2018.

    norm: "linf" or "l2" (epsilon is then a length, and steps go along the gradient). Of the restarts an image keeps
    the one with the smallest Z_y - max_{i != y} Z_i, below zero where it is misclassified. The starts come from rng, or
    are epsilon * noise, noise in the cube or ball of radius 1: (N, H, W, C), or (N, restarts, H, W, C); 0 starts at x.
    """
    best, smallest = x, array_module(x).full(len(x), np.inf, x.dtype)
    for start in _starts(x, restarts, norm, rng, noise):
        moved = within(x + epsilon * start, x, epsilon, norm)
        for _ in in_steps(steps, "pgd"):
            g = input_gradient(network, moved, y, loss=loss, craft_mode=craft_mode)
            way = np.sign(g) if norm == "linf" else along(g, "l2")
            moved = within(moved + (epsilon / 4 if step is None else step) * way, x, epsilon, norm)
        margin = true_margin(logits_of(network, moved, craft_mode=craft_mode), y)
        best = array_module(x).where(per_sample(margin < smallest, x), moved, best)
        smallest = np.minimum(margin, smallest)
    return best


def _starts(x: Array, restarts: int, norm: str, rng: np.random.Generator | None, noise: Array) -> Iterator[Array]:
    """One start a try."""
    if noise is None:
        noise = starts(x, rng=rng, restarts=restarts, norm=norm)
    shape = x.shape if restarts == 1 and noise.ndim == x.ndim else (len(x), restarts, *x.shape[1:])
    points = array_module(x).asarray(fitting(noise, shape), x.dtype)
    yield from points.reshape(len(x), restarts, *x.shape[1:]).swapaxes(0, 1)


def starts(x: Array, *, rng: np.random.Generator | None, restarts: int, norm: str) -> Array:
    """pgd's noise, (N, restarts, H, W, C), drawn on the host image by image: those after it change nothing."""
    points = []
    for own in given(rng).spawn(restarts):
        if norm == "linf":
            points.append(own.uniform(-1, 1, x.shape))
        else:  # all but two coordinates of a point on a sphere are uniform in the ball (Voelker et al. 2017)
            sphere = own.standard_normal((len(x), x[0].size + 2))
            sphere /= np.linalg.norm(sphere, axis=1, keepdims=True)
            points.append(sphere[:, :-2].reshape(x.shape))
    return np.stack(points, axis=1)


@attack
def momentum_fgsm(
    network: Any, x: Array, y: Array, *, epsilon: float = 16 / 256, step: float | None = None, steps: int = 10,
    decay: float = 1.0, loss: str = "cross_entropy", craft_mode: str = "eval",
) -> Array:  # fmt: skip
    """m = decay * m + gradient / ||gradient||_1, per image; a step along sign(m). Dong et al. 2018.

    network: one, or several, whose logits are averaged before the loss.
    """
    networks = list(network) if isinstance(network, Sequence) else [network]
    moved, momentum = x, np.zeros_like(x)
    for _ in in_steps(steps, "momentum_fgsm"):
        g = loss_gradient(networks, moved, y, loss=loss, craft_mode=craft_mode)
        total = abs(g).reshape(len(g), -1).sum(axis=1)
        momentum = decay * momentum + g / per_sample(np.where(total > 0, total, 1), g)
        moved = within(moved + (epsilon / 4 if step is None else step) * np.sign(momentum), x, epsilon)
    return moved
