"""The domain classifier D: are these features of a clean image or of an adversarial one? (Section 4.2, Fig. 2.)"""

from __future__ import annotations

import numpy as np

from . import ops
from .backend import array_module
from .layers import Linear, Module
from .tensor import Tensor

CLEAN_LABEL, ADVERSARIAL_LABEL = 0.0, 1.0


class DomainClassifier(Module):
    """Two dense layers behind a gradient reversal layer: features (N, D) -> logit (N,) of "adversarial".

    The classifier learns to tell clean from adversarial features; the network behind the reversal learns to make them
    alike (Ganin et al. 2016). width: of the hidden layer. The paper gives neither width nor strength: 256 and 1 are
    our choice.
    """

    def __init__(self, features: int, *, width: int = 256, strength: float = 1.0, rng: np.random.Generator) -> None:
        self.fc1 = Linear(features, width, rng=rng)
        self.fc2 = Linear(width, 1, rng=rng, std=0.01)
        self.strength = strength

    def __call__(self, features: Tensor) -> Tensor:
        return self.classify(ops.reverse_gradient(features, strength=self.strength))

    def classify(self, features: Tensor) -> Tensor:
        """The two dense layers, without the reversal."""
        return self.fc2(ops.relu(self.fc1(features))).reshape(-1)

    def loss(self, clean: Tensor, adversarial: Tensor) -> Tensor:
        """D(f(x), f(x_adv)): mean binary cross-entropy over both halves, (N, D) and (M, D) -> a scalar."""
        return _domain_loss(self(ops.concat(clean, adversarial, axis=0)), len(clean))


class Discriminator(DomainClassifier):
    """ADDA (Tzeng et al. 2017) in place of the reversal: the same two layers, trained against the network as in a GAN.

    The classifier learns to tell clean from adversarial features; these are constants to it. The network learns
    features of adversarial images that the classifier, a constant to the network, takes for clean ones. ADDA turns the
    label around instead of the gradient: that keeps the network's gradient large where the classifier is sure. Our
    choice: both learn in one step together with the classes, and the clean features are not frozen.
    """

    def loss(self, clean: Tensor, adversarial: Tensor) -> Tensor:
        """The sum of two losses: the first one trains only the classifier, the second one only the network."""
        constants = ops.concat(Tensor(clean.data), Tensor(adversarial.data), axis=0)
        classifier_loss = _domain_loss(self.classify(constants), len(clean))
        self.requires_grad(False)
        logits = self.classify(adversarial)
        self.requires_grad(True)
        return classifier_loss + _domain_loss(logits, len(logits))  # as if all of these were clean


DOMAINS = {"reversal": DomainClassifier, "adda": Discriminator}


def _domain_loss(logits: Tensor, clean: int) -> Tensor:
    """Mean binary cross-entropy of logits (N,): the first `clean` have the clean label, the others the adversarial."""
    labels = np.full(len(logits), ADVERSARIAL_LABEL, logits.dtype)
    labels[:clean] = CLEAN_LABEL
    return ops.binary_cross_entropy(logits, Tensor(array_module(logits.data).asarray(labels)))
