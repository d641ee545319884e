"""Attacks of one step: FGSM and its relatives, and the paper's own, R+FGSM."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..backend import kernels
from ..errors import InputError
from ..streams import random_bits
from .gradients import check, given, input_gradient, least_likely, length, per_sample

Array = Any


def fgsm(network: Any, x: Array, y: Array, *, epsilon: float = 16 / 256, craft_mode: str = "eval") -> Array:
    """clip(x + epsilon * sign(grad J(x, y))): Eq. 1 of the paper; Goodfellow et al. 2015."""
    check(x, y, epsilon)
    return kernels(x).sign_step(x, input_gradient(network, x, y, craft_mode=craft_mode), epsilon)


def fast_gradient_value(
    network: Any, x: Array, y: Array, *, epsilon: float = 16 / 256, scale: str = "l2", craft_mode: str = "eval"
) -> Array:
    """clip(x + epsilon * g / scale), g the gradient itself and not its sign: Rozsa et al. 2016.

    scale, per image: "l2", "max" (the largest entry), or "none". An image without a gradient stays as it is.
    """
    check(x, y, epsilon)
    g = input_gradient(network, x, y, craft_mode=craft_mode)
    if scale not in ("l2", "max", "none"):
        raise InputError(f"scale {scale!r}: choose l2, max or none.")
    if scale != "none":
        size = length(g) if scale == "l2" else abs(g).reshape(len(g), -1).max(axis=1)
        g = g / per_sample(np.where(size > 0, size, 1), g)
    return np.clip(x + epsilon * g, 0, 1)


def random_noise(
    network: Any, x: Array, y: Array, *, epsilon: float = 16 / 256, rng: np.random.Generator | None = None,
    craft_mode: str = "eval",
) -> Array:  # fmt: skip
    """clip(x + epsilon * sign(N(0, I))), a control: what the same budget does without looking at the network."""
    check(x, y, epsilon)
    return kernels(x).random_step(x, random_bits(given(rng), x.size), epsilon)


def step_ll(
    network: Any, x: Array, y: Array, *, epsilon: float = 16 / 256, as_printed: bool = False, craft_mode: str = "eval"
) -> Array:
    """clip(x - epsilon * sign(grad J(x, y_LL))): a step towards the least likely class. Kurakin et al. 2017.

    y is not used. Eq. 2 of the paper prints a plus, which steps away from the class that is least likely anyway;
    as_printed=True does that.
    """
    check(x, y, epsilon)
    g = input_gradient(network, x, least_likely(network, x, craft_mode=craft_mode), craft_mode=craft_mode)
    return kernels(x).sign_step(x, g, epsilon if as_printed else -epsilon)


def r_fgsm(
    network: Any,
    x: Array,
    y: Array,
    *,
    epsilon: float = 16 / 256,
    alpha: float | None = None,
    rng: np.random.Generator | None = None,
    noise: Array | None = None,
    craft_mode: str = "eval",
) -> Array:
    """Random step, then one signed gradient step: Eq. 3 of the paper, which calls it R+Step-LL; Tramer et al. 2018.

    x' = clip(x + alpha * sign(N(0, I)));  clip(x' + (epsilon - alpha) * sign(grad J(x', y))).
    x (N, H, W, C) in [0, 1], y (N,) class indices; alpha is epsilon / 2 unless given and must be below epsilon. The
    random step comes from rng, or is the sign of `noise`. Returns x_adv with |x_adv - x| <= epsilon, inside [0, 1].
    Raises InputError (a ValueError).
    """
    # Lines 17-21 of Algorithm 1, with Tramer's clipping to the pixel range after either step
    start, alpha = _random_start(x, y, epsilon, alpha, rng, noise)  # 18: x' = x + alpha * sign(N(0, I))
    g = input_gradient(network, start, y, craft_mode=craft_mode)  # 19: the gradient of Network_loss(x', y_true) to x'
    return kernels(x).sign_step(start, g, epsilon - alpha)  # 19, 20: clip(x' + (epsilon - alpha) * sign(gradient))


def r_step_ll(
    network: Any,
    x: Array,
    y: Array,
    *,
    epsilon: float = 16 / 256,
    alpha: float | None = None,
    rng: np.random.Generator | None = None,
    noise: Array | None = None,
    craft_mode: str = "eval",
) -> Array:
    """r_fgsm's random step, then a step towards the class least likely for the clean x; y is not used.

    What the name R+Step-LL promises: Eq. 3 with y_LL and a minus.
    """
    start, alpha = _random_start(x, y, epsilon, alpha, rng, noise)
    y_ll = least_likely(network, x, craft_mode=craft_mode)
    g = input_gradient(network, start, y_ll, craft_mode=craft_mode)
    return kernels(x).sign_step(start, g, alpha - epsilon)


def resolve_alpha(epsilon: float, alpha: float | None) -> float:
    """The random step's size: epsilon / 2 unless given; InputError unless 0 <= alpha < epsilon."""
    if not 0 <= epsilon <= 1:
        raise InputError(f"epsilon {epsilon:g} is not in pixels of [0, 1]: write it like 16/256.")
    if alpha is None:
        return epsilon / 2
    if alpha < 0:
        raise InputError(f"alpha {alpha:g} is negative: leave it out for epsilon / 2.")
    if not alpha < epsilon and alpha != 0:  # also NaN
        raise InputError(
            f"alpha {alpha:g} must be below epsilon {epsilon:g}: the random step may not use up the whole budget; "
            "leave alpha out for epsilon / 2."
        )
    return alpha


def _random_start(x: Array, y: Array, epsilon: float, alpha: float | None, rng: Any, noise: Any) -> tuple[Array, float]:
    alpha = resolve_alpha(epsilon, alpha)
    check(x, y, epsilon)
    if noise is None:
        if rng is None:
            raise InputError("a random attack needs rng (a numpy Generator) or the noise itself.")
        return kernels(x).random_step(x, random_bits(rng, x.size), alpha), alpha
    return kernels(x).sign_step(x, noise, alpha), alpha
