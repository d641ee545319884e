"""The small networks, images and options that the tests of the attacks share."""

from pathlib import Path

import numpy as np

from minisatm import Tensor, attacks, models, ops
from minisatm.layers import BatchNorm, Module

GOLDEN = Path(__file__).parent / "golden" / "attacks.npz"
EPSILON = 16 / 256
SLACK = 2e-7  # x is at most 1, so x + epsilon - x is off by a few units of 2^-24


class Dense(Module):
    """The 12-8(tanh)-4 network that the published examples were crafted with."""

    def __init__(self, stored):
        for name in ("W1", "b1", "W2", "b2"):
            setattr(self, name, Tensor(stored[name], requires_grad=True))

    def __call__(self, x):
        features = ops.tanh(ops.linear(x.reshape(len(x), -1), self.W1, self.b1))
        return ops.linear(features, self.W2, self.b2), features


def thin_resnet():
    """A thin ResNet20 whose running statistics and affine terms are not those of its start."""
    network = models.build("resnet20", classes=5, width=1 / 4, size=16, rng=0)
    rng = np.random.default_rng(5)
    for _, module in network.modules():
        if isinstance(module, BatchNorm):
            module.gamma.data = rng.uniform(0.5, 1, module.gamma.shape).astype(np.float32)
            module.mean = (0.2 * rng.standard_normal(module.mean.shape)).astype(np.float32)
            module.var = rng.uniform(0.5, 2, module.var.shape).astype(np.float32)
    return network


def images(count=4, seed=1, size=16, channels=3, classes=5):
    rng = np.random.default_rng(seed)
    return rng.random((count, size, size, channels), np.float32), rng.integers(0, classes, count)


SINGLE = ("fgsm", "step_ll", "r_fgsm", "r_step_ll")
STEPS = {name: {"steps": 2} for name in ("iterative_fgsm", "iterative_ll", "pgd", "momentum_fgsm", "deepfool")}
STEPS |= {"square": {"steps": 5}, "carlini_wagner_l2": {"steps": 10, "search_steps": 2}}
STEPS |= {"carlini_wagner_linf": {"steps": 5, "c": 5.0}}
STEPS |= {"carlini_wagner_l0": {"steps": 10, "search_steps": 2, "rounds": 2}}
VARIANTS = [(name, STEPS.get(name, {})) for name in attacks.ATTACKS]
VARIANTS += [("pgd", {"steps": 3, "restarts": 3}), ("pgd", {"steps": 3, "norm": "l2", "step": 0.5, "restarts": 2})]
VARIANTS += [("fast_gradient_value", {"scale": scale}) for scale in ("max", "none")]
VARIANTS += [(name, STEPS.get(name, {}) | {"loss": "margin"}) for name, a in attacks.ATTACKS.items() if a.takes("loss")]
WITH_EPSILON = sorted(name for name, attack in attacks.ATTACKS.items() if attack.takes("epsilon"))
WITH_ALPHA = [name for name, attack in attacks.ATTACKS.items() if attack.takes("alpha")]
WITH_NOISE = [name for name, attack in attacks.ATTACKS.items() if attack.takes("noise")]
RANDOM = [name for name, attack in attacks.ATTACKS.items() if attack.takes("rng")]


def run(name, network, x, y, **options):
    if name in RANDOM and "noise" not in options:
        options.setdefault("rng", np.random.default_rng(7))
    return attacks.ATTACKS[name](network, x, y, **options)


def double(dense):
    """The same network in float64, where no sign hangs on rounding."""
    return Dense({name: tensor.data.astype(np.float64) for name, tensor in dense.parameters().items()})


def drawn_images(seed, dtype, count=6):
    """Images with many pixels at the corners of the range, and labels."""
    rng = np.random.default_rng(seed)
    x = np.where(
        rng.random((count, 1, 3, 4)) < 0.4, rng.integers(0, 3, (count, 1, 3, 4)) / 2, rng.random((count, 1, 3, 4))
    )
    return x.astype(dtype), rng.integers(0, 4, count)


def size_of(away, norm):
    """The length of each image's perturbation in this norm."""
    flat = np.abs(away.astype(np.float64)).reshape(len(away), -1)
    return np.sqrt((flat**2).sum(axis=1)) if norm == "l2" else flat.max(axis=1)


def noise_for(x, options, seed=3):
    """Starts for several tries, or one; those of pgd in L2 lie in its ball."""
    shape = (len(x), options["restarts"], *x.shape[1:]) if "restarts" in options else x.shape
    noise = np.random.default_rng(seed).uniform(-1, 1, shape)
    return noise / 4 if options.get("norm") == "l2" else noise
