"""Attacks on networks: x in [0, 1] in, adversarial x out, epsilon and alpha in pixels of that range.

J is the cross-entropy on logits summed over the batch, so that each image's gradient is its own. Networks craft in eval
mode unless craft_mode="train"; either way weights, gradients and running statistics come out as they went in. clip is
to [0, 1]: kernels.sign_step and random_step do it in the same pass. On a GPU, where looking at x would mean waiting, a
pixel outside of that range comes out as NaN.
"""

from .carlini_wagner import carlini_wagner_l0, carlini_wagner_l2, carlini_wagner_linf
from .gradients import (
    answer,
    input_gradient,
    least_likely,
    logits_of,
    loss_gradient,
    rounded,
    true_margin,
    zero_gradients,
)
from .iterative import iterative_fgsm, iterative_ll, momentum_fgsm, pgd
from .minimal import deepfool
from .registry import ATTACKS, Attack, craft
from .search import hot_cold, square
from .single_step import fast_gradient_value, fgsm, r_fgsm, r_step_ll, random_noise, resolve_alpha, step_ll

__all__ = [
    "ATTACKS", "Attack", "answer", "carlini_wagner_l0", "carlini_wagner_l2", "carlini_wagner_linf", "craft", "deepfool",
    "fast_gradient_value", "fgsm", "hot_cold", "input_gradient", "iterative_fgsm", "iterative_ll", "least_likely",
    "logits_of", "loss_gradient", "momentum_fgsm", "pgd", "r_fgsm", "r_step_ll", "random_noise", "resolve_alpha",
    "rounded", "square", "step_ll", "true_margin", "zero_gradients",
]  # fmt: skip
