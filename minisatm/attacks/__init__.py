"""Attacks on networks: x in [0, 1] in, adversarial x out, epsilon and alpha in pixels of that range.

J is the cross-entropy on logits summed over the batch, so that each image's gradient is its own. Networks craft in eval
mode unless craft_mode="train"; either way weights, gradients and running statistics come out as they went in. clip is
to [0, 1]: kernels.sign_step and random_step do it in the same pass. On a GPU, where looking at x would mean waiting, a
pixel outside of that range comes out as NaN.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..errors import InputError
from .carlini_wagner import carlini_wagner_l0, carlini_wagner_l2, carlini_wagner_linf
from .gradients import answer, input_gradient, least_likely, logits_of, loss_gradient
from .iterative import iterative_fgsm, iterative_ll, momentum_fgsm, pgd, true_margin
from .minimal import deepfool
from .search import hot_cold, square
from .single_step import fast_gradient_value, fgsm, r_fgsm, r_step_ll, random_noise, resolve_alpha, step_ll

Array = Any

ATTACKS: dict[str, Callable[..., Array]] = {
    f.__name__: f for f in (
        fgsm, step_ll, r_fgsm, r_step_ll, fast_gradient_value, iterative_fgsm, iterative_ll, pgd, momentum_fgsm,
        deepfool, carlini_wagner_l2, carlini_wagner_linf, carlini_wagner_l0, hot_cold, square, random_noise,
    )
}  # fmt: skip
RANDOM = ("r_fgsm", "r_step_ll", "pgd", "square", "random_noise")  # these take rng
WITH_ALPHA = ("r_fgsm", "r_step_ll")
WITHOUT_EPSILON = ("deepfool", "carlini_wagner_l2", "carlini_wagner_linf", "carlini_wagner_l0")


def craft(
    name: str,
    network: Any,
    x: Array,
    y: Array,
    *,
    epsilon: float,
    alpha: float | None,
    rng: Any,
    craft_mode: str = "eval",
) -> Array:
    """The attack of this name; epsilon, alpha and rng go to those that have them."""
    if name not in ATTACKS:
        raise InputError(f"unknown attack {name!r}: choose one of {', '.join(ATTACKS)}.")
    options: dict[str, Any] = {} if name in WITHOUT_EPSILON else dict(epsilon=epsilon)
    options |= dict(rng=rng) if name in RANDOM else {}
    options |= dict(alpha=alpha) if name in WITH_ALPHA else {}
    return ATTACKS[name](network, x, y, craft_mode=craft_mode, **options)


__all__ = [
    "ATTACKS", "RANDOM", "WITHOUT_EPSILON", "WITH_ALPHA", "answer", "craft", "input_gradient", "least_likely",
    "logits_of", "loss_gradient", "resolve_alpha", "true_margin", *ATTACKS,
]  # fmt: skip
