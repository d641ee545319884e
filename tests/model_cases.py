"""Small networks and images that the tests of the networks share."""

import numpy as np

from minisatm import models
from minisatm.layers import BatchNorm

SMALL = {
    "vgg16": {"classes": 5, "width": 1 / 32, "size": 32},
    "resnet50": {"classes": 5, "width": 1 / 32, "size": 32},
    "resnet101": {"classes": 5, "width": 1 / 32, "size": 32},
    "resnet20": {"classes": 5, "width": 1 / 4, "size": 16},
    "inception_v3": {"classes": 5, "width": 1 / 8, "size": 75},
    "inception_resnet_v2": {"classes": 5, "width": 1 / 8, "size": 75},
    "lenet": {"classes": 5, "width": 1 / 4, "size": 28},
}


def small(name, rng=0, **changes):
    return models.build(name, **{**SMALL[name], "rng": rng, **changes})


def pixels(network, count=2, seed=1, dtype=np.float32):
    size, channels = network.definition["size"], network.definition["channels"]
    return np.random.default_rng(seed).random((count, size, size, channels)).astype(dtype)


def awake(network, seed=5):
    """Random affine terms and running statistics: residual blocks start with gamma zero, which hides half the graph."""
    rng = np.random.default_rng(seed)
    for _, module in network.modules():
        if isinstance(module, BatchNorm):
            if module.gamma is not None:
                module.gamma.data = rng.uniform(0.5, 1, module.gamma.shape).astype(module.gamma.dtype)
            module.beta.data = (0.2 * rng.standard_normal(module.beta.shape)).astype(module.beta.dtype)
            module.mean = (0.2 * rng.standard_normal(module.mean.shape)).astype(module.mean.dtype)
            module.var = rng.uniform(0.5, 2, module.var.shape).astype(module.var.dtype)
    return network
