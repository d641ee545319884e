"""Attacks on networks: images x in [0, 1] in, adversarial images out; epsilon and alpha in pixels of that range.

J is the cross-entropy of the logits, summed over the batch, so that an image has the same gradient alone as in a batch.
Networks are in eval mode during an attack unless craft_mode="train"; afterwards weights, gradients and running
statistics are as before. clip is to [0, 1]. On a GPU nothing checks that x lies in [0, 1], because the host would have
to wait for the answer: there a pixel outside of the range comes out as NaN.
"""

from .carlini_wagner import carlini_wagner_l0, carlini_wagner_l2, carlini_wagner_linf
from .gradients import input_gradient, least_likely, logits_and_vjp, logits_of, loss_gradient, rounded, true_margin
from .iterative import iterative_fgsm, iterative_ll, momentum_fgsm, pgd
from .minimal import deepfool
from .registry import ATTACKS, Attack, craft
from .search import hot_cold, square
from .single_step import fast_gradient_value, fgsm, r_fgsm, r_step_ll, random_noise, resolve_alpha, step_ll

__all__ = [
    "ATTACKS", "Attack", "carlini_wagner_l0", "carlini_wagner_l2", "carlini_wagner_linf", "craft", "deepfool",
    "fast_gradient_value", "fgsm", "hot_cold", "input_gradient", "iterative_fgsm", "iterative_ll", "least_likely",
    "logits_and_vjp", "logits_of", "loss_gradient", "momentum_fgsm", "pgd", "r_fgsm", "r_step_ll", "random_noise",
    "resolve_alpha", "rounded", "square", "step_ll", "true_margin",
]  # fmt: skip
