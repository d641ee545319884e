"""The domain classifier D: are these features of a clean image or of an adversarial one? (Section 4.2, Fig. 2.)"""

from __future__ import annotations

import numpy as np

from . import ops
from .backend import array_module
from .layers import Linear, Module
from .tensor import Tensor

CLEAN, ADVERSARIAL = 0.0, 1.0


class DomainClassifier(Module):
    """Two dense layers behind a gradient reversal layer: features (N, D) -> logit (N,) of being adversarial.

    The classifier learns to tell the two apart; the network behind the reversal learns to make them alike (Ganin et al.
    2016). width: the hidden layer's, not given in the paper; 256 is our choice, as is strength 1.
    """

    def __init__(self, features: int, *, width: int = 256, strength: float = 1.0, rng: np.random.Generator) -> None:
        self.fc1 = Linear(features, width, rng=rng)
        self.fc2 = Linear(width, 1, rng=rng, std=0.01)
        self.strength = strength

    def __call__(self, features: Tensor) -> Tensor:
        x = ops.reverse_gradient(features, strength=self.strength)
        x = ops.relu(self.fc1(x))
        return self.fc2(x).reshape(-1)

    def loss(self, clean: Tensor, adversarial: Tensor) -> Tensor:
        """D(f(x), f(x_adv)): mean binary cross-entropy over both halves, (N, D) and (M, D) -> a scalar."""
        logits = self(ops.concat(clean, adversarial, axis=0))
        truth = np.repeat(np.array([CLEAN, ADVERSARIAL], logits.dtype), [len(clean), len(adversarial)])
        return ops.binary_cross_entropy(logits, Tensor(array_module(logits.data).asarray(truth)))
