"""Attacks of one step: FGSM and its relatives, and the paper's own, R+FGSM."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..backend import array_module, kernels
from ..errors import InputError
from ..streams import random_bits
from .arguments import attack, check_epsilon, fitting, given
from .gradients import input_gradient, least_likely, length, per_sample

Array = Any


@attack
def fgsm(
    network: Any, x: Array, y: Array, *, epsilon: float = 16 / 256, loss: str = "cross_entropy",
    craft_mode: str = "eval",
) -> Array:  # fmt: skip
    """clip(x + epsilon * sign(grad J(x, y))): Eq. 1 of the paper; Goodfellow et al. 2015."""
    return kernels(x).sign_step(x, input_gradient(network, x, y, loss=loss, craft_mode=craft_mode), epsilon)


@attack
def fast_gradient_value(
    network: Any, x: Array, y: Array, *, epsilon: float = 16 / 256, scale: str = "l2", loss: str = "cross_entropy",
    craft_mode: str = "eval",
) -> Array:  # fmt: skip
    """clip(x + epsilon * g / scale), g the gradient itself and not its sign: Rozsa et al. 2016.

    scale, per image: "l2", "max" (the largest entry), or "none". An image without a gradient stays as it is.
    """
    g = input_gradient(network, x, y, loss=loss, craft_mode=craft_mode)
    return np.clip(x + epsilon * along(g, scale), 0, 1)


def along(g: Array, scale: str) -> Array:
    """g over its L2 norm or its largest entry, image by image; zero where it is zero."""
    if scale == "none":
        return g
    largest = abs(g).reshape(len(g), -1).max(axis=1)
    g = g / per_sample(np.where(largest > 0, largest, 1), g)  # first: the square of a small gradient would be zero
    return g if scale == "max" else g / per_sample(np.maximum(length(g), 1), g)


@attack
def random_noise(
    network: Any, x: Array, y: Array, *, epsilon: float = 16 / 256, rng: np.random.Generator | None = None,
    noise: Array = None, craft_mode: str = "eval",
) -> Array:  # fmt: skip
    """clip(x + epsilon * sign(N(0, I))), a control: what the same budget does without looking at the network."""
    return _random_step(x, epsilon, rng, noise)


@attack
def step_ll(
    network: Any, x: Array, y: Array, *, epsilon: float = 16 / 256, as_printed: bool = False, craft_mode: str = "eval"
) -> Array:
    """clip(x - epsilon * sign(grad J(x, y_LL))): a step towards the least likely class. Kurakin et al. 2017.

    y is not used. Eq. 2 of the paper prints a plus, which steps away from the class that is least likely anyway;
    as_printed=True does that.
    """
    g = input_gradient(network, x, least_likely(network, x, craft_mode=craft_mode), craft_mode=craft_mode)
    return kernels(x).sign_step(x, g, epsilon if as_printed else -epsilon)


@attack
def r_fgsm(
    network: Any,
    x: Array,
    y: Array,
    *,
    epsilon: float = 16 / 256,
    alpha: float | None = None,
    rng: np.random.Generator | None = None,
    noise: Array | None = None,
    loss: str = "cross_entropy",
    craft_mode: str = "eval",
) -> Array:
    """Random step, then one signed gradient step: Eq. 3 of the paper, which calls it R+Step-LL; Tramer et al. 2018.

    x' = clip(x + alpha * sign(N(0, I)));  clip(x' + (epsilon - alpha) * sign(grad J(x', y))).
    x (N, H, W, C) in [0, 1], y (N,) class indices; alpha is epsilon / 2 unless given and must be below epsilon. The
    random step comes from rng, or is the sign of `noise`. Returns x_adv with |x_adv - x| <= epsilon, inside [0, 1].
    Raises InputError (a ValueError).
    """
    # Lines 17-21 of Algorithm 1, with Tramer's clipping to the pixel range after either step
    alpha = resolve_alpha(epsilon, alpha)
    start = _random_step(x, alpha, rng, noise)  # 18: x' = x + alpha * sign(N(0, I))
    g = input_gradient(network, start, y, loss=loss, craft_mode=craft_mode)  # 19: gradient of Network_loss(x', y_true)
    return kernels(x).sign_step(start, g, epsilon - alpha)  # 19, 20: clip(x' + (epsilon - alpha) * sign(gradient))


@attack
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
    alpha = resolve_alpha(epsilon, alpha)
    start = _random_step(x, alpha, rng, noise)
    y_ll = least_likely(network, x, craft_mode=craft_mode)
    g = input_gradient(network, start, y_ll, craft_mode=craft_mode)
    return kernels(x).sign_step(start, g, alpha - epsilon)


def resolve_alpha(epsilon: float, alpha: float | None) -> float:
    """The random step's size: epsilon / 2 unless given; InputError unless 0 <= alpha < epsilon."""
    check_epsilon(epsilon)
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


def signs(x: Array, *, rng: np.random.Generator | None) -> Array:
    """sign(N(0, I)) of the shape of x, from the very bits that a random step takes."""
    plus = np.unpackbits(random_bits(given(rng), x.size), count=x.size).reshape(x.shape)
    return array_module(x).asarray(2.0 * plus - 1, x.dtype)


def _random_step(x: Array, size: float, rng: np.random.Generator | None, noise: Array | None) -> Array:
    """clip(x + size * sign(N(0, I))): the signs come from rng, or are those of `noise`."""
    if noise is None:
        return kernels(x).random_step(x, random_bits(given(rng), x.size), size)
    return kernels(x).sign_step(x, array_module(x).asarray(fitting(noise, x.shape), x.dtype), size)
