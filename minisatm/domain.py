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
        return self.classify(ops.reverse_gradient(features, strength=self.strength))

    def classify(self, features: Tensor) -> Tensor:
        """The two layers alone."""
        x = ops.relu(self.fc1(features))
        return self.fc2(x).reshape(-1)

    def loss(self, clean: Tensor, adversarial: Tensor) -> Tensor:
        """D(f(x), f(x_adv)): mean binary cross-entropy over both halves, (N, D) and (M, D) -> a scalar."""
        return _against(self(ops.concat(clean, adversarial, axis=0)), clean, adversarial)


class Discriminator(DomainClassifier):
    """ADDA (Tzeng et al. 2017) in place of the reversal: the same two layers, trained against the network as in a GAN.

    The classifier learns to tell the two apart, from features that are constants to it; the network learns features of
    adversarial images that the classifier, constant to the network, takes for clean ones. Of the two, ADDA turns the
    label around and not the gradient, which stays large where the classifier is sure. Ours to decide: both learn in one
    step, beside the classes, and clean features are not frozen.
    """

    def loss(self, clean: Tensor, adversarial: Tensor) -> Tensor:
        """Both losses as one scalar: the first moves the classifier alone, the second the network alone."""
        features = ops.concat(Tensor(clean.data), Tensor(adversarial.data), axis=0)
        told = _against(self.classify(features), clean, adversarial)
        self.requires_grad(False)
        taken = self.classify(adversarial)
        self.requires_grad(True)
        return told + ops.binary_cross_entropy(taken, _labels(taken, (CLEAN, len(adversarial))))


DOMAINS = {"reversal": DomainClassifier, "adda": Discriminator}


def _against(logits: Tensor, clean: Tensor, adversarial: Tensor) -> Tensor:
    truth = _labels(logits, (CLEAN, len(clean)), (ADVERSARIAL, len(adversarial)))
    return ops.binary_cross_entropy(logits, truth)


def _labels(logits: Tensor, *counted: tuple[float, int]) -> Tensor:
    values, counts = zip(*counted)
    return Tensor(array_module(logits.data).asarray(np.repeat(np.array(values, logits.dtype), counts)))
