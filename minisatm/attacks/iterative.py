"""Attacks of several steps inside a ball around the image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..backend import array_module
from ..errors import InputError
from .gradients import check, given, input_gradient, least_likely, length, logits_of, loss_gradient, per_sample

Array = Any


def within(moved: Array, x: Array, epsilon: float, norm: str = "linf") -> Array:
    """The nearest point of the ball of radius epsilon round x, then of the pixel range [0, 1]."""
    if norm == "linf":
        return np.clip(np.clip(moved, x - epsilon, x + epsilon), 0, 1)
    away = moved - x
    far = np.maximum(length(away) / max(epsilon, 1e-12), 1)
    return np.clip(x + away / per_sample(far, x), 0, 1)


def iterative_fgsm(
    network: Any, x: Array, y: Array, *, epsilon: float = 16 / 256, step: float | None = None, steps: int = 10,
    craft_mode: str = "eval",
) -> Array:  # fmt: skip
    """`steps` steps of `step` (epsilon / 4 unless given) up the loss, each back into the ball: Kurakin et al. 2017."""
    return _signed_steps(network, x, y, 1, epsilon, step, steps, craft_mode)


def iterative_ll(
    network: Any, x: Array, y: Array, *, epsilon: float = 16 / 256, step: float | None = None, steps: int = 10,
    craft_mode: str = "eval",
) -> Array:  # fmt: skip
    """Steps towards the class least likely for the clean x; y is not used. Kurakin et al. 2017."""
    y_ll = least_likely(network, x, craft_mode=craft_mode)
    return _signed_steps(network, x, y_ll, -1, epsilon, step, steps, craft_mode)


def _signed_steps(
    network: Any, x: Array, y: Array, way: int, epsilon: float, step: float | None, steps: int, mode: str
) -> Array:
    check(x, y, epsilon)
    moved = x
    for _ in range(steps):
        g = input_gradient(network, moved, y, craft_mode=mode)
        moved = within(moved + way * (epsilon / 4 if step is None else step) * np.sign(g), x, epsilon)
    return moved


def pgd(
    network: Any, x: Array, y: Array, *, epsilon: float = 16 / 256, step: float | None = None, steps: int = 10,
    restarts: int = 1, norm: str = "linf", rng: np.random.Generator | None = None, craft_mode: str = "eval",
) -> Array:  # fmt: skip
    """Projected gradient steps from a random start in the ball, the best of several starts: Madry et al. 2018.

    norm: "linf" or "l2" (epsilon is then a length, and steps go along the gradient). Of the restarts an image keeps one
    that is misclassified, or else that with the largest loss.
    """
    check(x, y, epsilon if norm == "linf" else 0.0)
    rng = given(rng)
    if norm not in ("linf", "l2"):
        raise InputError(f"norm {norm!r}: choose linf or l2.")
    size = epsilon / 4 if step is None else step
    best, best_margin = x, None
    for _ in range(restarts):
        moved = within(x + _random_point(rng, x, epsilon, norm), x, epsilon, norm)
        for _ in range(steps):
            g = input_gradient(network, moved, y, craft_mode=craft_mode)
            way = np.sign(g) if norm == "linf" else g / per_sample(np.maximum(length(g), 1e-12), g)
            moved = within(moved + size * way, x, epsilon, norm)
        margin = true_margin(logits_of(network, moved, craft_mode=craft_mode), y)
        if best_margin is None:
            best, best_margin = moved, margin
        else:
            better = margin < best_margin
            best = array_module(x).where(per_sample(better, x), moved, best)
            best_margin = np.minimum(margin, best_margin)
    return best


def true_margin(logits: Array, y: Array) -> Array:
    """Z_y - max_{i != y} Z_i, (N,): below zero where the image is misclassified. The true class is masked with -inf."""
    xp = array_module(logits)
    own = xp.arange(logits.shape[1]) == xp.asarray(y)[:, None]
    return xp.where(own, logits, -np.inf).max(axis=1) - xp.where(own, -np.inf, logits).max(axis=1)


def _random_point(rng: np.random.Generator, x: Array, epsilon: float, norm: str) -> Array:
    """Uniform in the ball, drawn on the host: the same on every backend."""
    if norm == "linf":
        point = rng.uniform(-epsilon, epsilon, x.shape)
    else:
        flat = rng.standard_normal((len(x), x[0].size)) if len(x) else np.zeros((0, 1))
        radius = epsilon * rng.random((len(x), 1)) ** (1 / flat.shape[1])
        point = (flat / np.linalg.norm(flat, axis=1, keepdims=True) * radius).reshape(x.shape)
    return array_module(x).asarray(point, x.dtype)


def momentum_fgsm(
    network: Any, x: Array, y: Array, *, epsilon: float = 16 / 256, step: float | None = None, steps: int = 10,
    decay: float = 1.0, craft_mode: str = "eval",
) -> Array:  # fmt: skip
    """m = decay * m + gradient / ||gradient||_1, per image; a step along sign(m). Dong et al. 2018.

    network: one, or several, whose logits are averaged before the loss.
    """
    check(x, y, epsilon)
    networks = list(network) if isinstance(network, Sequence) else [network]
    moved, momentum = x, np.zeros_like(x)
    for _ in range(steps):
        g = loss_gradient(networks, moved, y, craft_mode=craft_mode)
        total = abs(g).reshape(len(g), -1).sum(axis=1)
        momentum = decay * momentum + g / per_sample(np.where(total > 0, total, 1), g)
        moved = within(moved + (epsilon / 4 if step is None else step) * np.sign(momentum), x, epsilon)
    return moved
