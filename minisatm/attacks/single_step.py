"""Attacks of one gradient step: FGSM, its relatives, and R+FGSM, the attack of the paper."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..backend import array_module, kernels
from ..errors import InputError
from ..inputs import python_number
from ..streams import random_bits
from .arguments import check_epsilon, checked_attack, checked_noise, required_rng
from .gradients import input_gradient, least_likely, length, per_sample

Array = Any
Rng = np.random.Generator


@checked_attack
def fgsm(
    network: Any, x: Array, y: Array, *, epsilon: float = 16 / 256, loss: str = "cross_entropy",
    craft_mode: str = "eval",
) -> Array:  # fmt: skip
    """clip(x + epsilon * sign(grad J(x, y))): Eq. 1 of the paper; Goodfellow et al. 2015."""
    return kernels(x).sign_step(x, input_gradient(network, x, y, loss=loss, craft_mode=craft_mode), epsilon)


@checked_attack
def r_fgsm(
    network: Any, x: Array, y: Array, *, epsilon: float = 16 / 256, alpha: float | None = None, rng: Rng | None = None,
    noise: Array | None = None, loss: str = "cross_entropy", craft_mode: str = "eval",
) -> Array:  # fmt: skip
    """Random step, then one signed gradient step: Eq. 3 of the paper, which calls it R+Step-LL; Tramer et al. 2018.

    x' = clip(x + alpha * sign(N(0, I)));  clip(x' + (epsilon - alpha) * sign(grad J(x', y))).
    x (N, H, W, C) in [0, 1], y (N,) class indices; alpha is epsilon / 2 unless given and must be below epsilon. The
    random step comes from rng, or is the sign of `noise`. Returns x_adv with |x_adv - x| <= epsilon, inside [0, 1].
    Raises InputError (a ValueError).
    """
    # Lines 17-21 of Algorithm 1. Tramer et al. clip to [0, 1] after both steps; the kernels do it in the same pass.
    alpha = resolve_alpha(epsilon, alpha)
    start = _random_step(x, alpha, rng, noise)  # 18: x' = x + alpha * sign(N(0, I))
    g = input_gradient(network, start, y, loss=loss, craft_mode=craft_mode)  # 19: gradient of Network_loss(x', y_true)
    return kernels(x).sign_step(start, g, epsilon - alpha)  # 19, 20: clip(x' + (epsilon - alpha) * sign(gradient))


@checked_attack
def step_ll(
    network: Any, x: Array, y: Array, *, epsilon: float = 16 / 256, as_printed: bool = False, craft_mode: str = "eval"
) -> Array:
    """clip(x - epsilon * sign(grad J(x, y_LL))): a step towards the least likely class. Kurakin et al. 2017.

    y is not used. Eq. 2 of the paper prints + in place of -: a step away from the class that is the least likely
    already. as_printed=True does that.
    """
    g = input_gradient(network, x, least_likely(network, x, craft_mode=craft_mode), craft_mode=craft_mode)
    return kernels(x).sign_step(x, g, epsilon if as_printed else -epsilon)


@checked_attack
def r_step_ll(
    network: Any, x: Array, y: Array, *, epsilon: float = 16 / 256, alpha: float | None = None, rng: Rng | None = None,
    noise: Array | None = None, craft_mode: str = "eval",
) -> Array:  # fmt: skip
    """r_fgsm's random step, then a step towards the class that is least likely for the clean x; y is not used.

    It is what the name R+Step-LL says: Eq. 3 with y_LL and a minus.
    """
    alpha = resolve_alpha(epsilon, alpha)
    start = _random_step(x, alpha, rng, noise)
    g = input_gradient(network, start, least_likely(network, x, craft_mode=craft_mode), craft_mode=craft_mode)
    return kernels(x).sign_step(start, g, alpha - epsilon)


@checked_attack
def fast_gradient_value(
    network: Any, x: Array, y: Array, *, epsilon: float = 16 / 256, scale: str = "l2", loss: str = "cross_entropy",
    craft_mode: str = "eval",
) -> Array:  # fmt: skip
    """clip(x + epsilon * g / scale), where g is the gradient itself and not its sign: Rozsa et al. 2016.

    scale, for each image: "l2" (the norm of g), "max" (its largest entry), or "none". Where g is 0, x stays as it is.
    """
    g = input_gradient(network, x, y, loss=loss, craft_mode=craft_mode)
    return np.clip(x + epsilon * scaled_gradient(g, scale), 0, 1)


@checked_attack
def random_noise(
    network: Any, x: Array, y: Array, *, epsilon: float = 16 / 256, rng: Rng | None = None, noise: Array = None,
    craft_mode: str = "eval",
) -> Array:  # fmt: skip
    """clip(x + epsilon * sign(N(0, I))): a control, with the size of an attack but without its gradient."""
    return _random_step(x, epsilon, rng, noise)


def resolve_alpha(epsilon: float, alpha: float | None) -> float:
    """The size of the random step: epsilon / 2 unless given; InputError unless 0 <= alpha < epsilon."""
    epsilon, alpha = python_number(epsilon), python_number(alpha)
    check_epsilon(epsilon)
    if alpha is None:
        return epsilon / 2
    if alpha < 0:
        raise InputError(f"alpha {alpha:g} is negative: leave it out for epsilon / 2.")
    if not alpha < epsilon and alpha != 0:  # "not ... <" is true for NaN; alpha 0 is allowed at epsilon 0
        raise InputError(
            f"alpha {alpha:g} must be below epsilon {epsilon:g}, or no budget is left for the gradient step: "
            "leave alpha out for epsilon / 2."
        )
    return alpha


def _random_step(x: Array, size: float, rng: Rng | None, noise: Array | None) -> Array:
    """clip(x + size * sign(N(0, I))): the signs are drawn from rng, or are those of `noise`."""
    if noise is None:
        return kernels(x).random_step(x, random_bits(required_rng(rng), x.size), size)
    return kernels(x).sign_step(x, array_module(x).asarray(checked_noise(noise, x.shape), x.dtype), size)


def draw_signs(x: Array, *, rng: Rng | None) -> Array:
    """sign(N(0, I)) in the shape of x, from the same random bits as _random_step."""
    plus = np.unpackbits(random_bits(required_rng(rng), x.size), count=x.size).reshape(x.shape)
    return array_module(x).asarray(2.0 * plus - 1, x.dtype)


def scaled_gradient(g: Array, scale: str) -> Array:
    """g divided by its L2 norm or by its largest entry, for each image; where g is 0 it stays 0."""
    if scale == "none":
        return g
    largest = abs(g).reshape(len(g), -1).max(axis=1)
    g = g / per_sample(np.where(largest > 0, largest, 1), g)  # also for l2: the square of a tiny gradient is 0
    return g if scale == "max" else g / per_sample(np.maximum(length(g), 1), g)
