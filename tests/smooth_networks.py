"""A network of two dense layers without a kink, in float64, for the tests of the defences."""

from types import SimpleNamespace

import numpy as np
from learners import Batches

from minisatm import ops, optim
from minisatm.layers import Linear, Module
from minisatm.satm import Learner

RELATIVES = SimpleNamespace(r_embedding=0.1, temperature=3.0, r_penalty=0.1)

RATE = 0.05


class Smooth(Module):
    """12 - 8 (tanh) - 4 on images (N, 2, 2, 3), in float64: nowhere a kink."""

    def __init__(self, seed=0):
        rng = np.random.default_rng(seed)
        self.fc1, self.fc2 = Linear(12, 8, rng=rng), Linear(8, 4, rng=rng)
        self.astype(np.float64)

    def __call__(self, x):
        features = ops.tanh(self.fc1(x.reshape(len(x), -1)))
        return self.fc2(features), features


def smooth(seed=0, name="smooth"):
    network = Smooth(seed)
    return Learner(name, network, optim.SGD(network.parameters(), RATE))


def points(count=6, seed=0):
    rng = np.random.default_rng(seed)
    return rng.random((count, 2, 2, 3)), rng.integers(0, 4, count)


def weights_of(own):
    return {n: t.data.copy() for n, t in own.network.parameters().items()}


class Points(Batches):
    """The monitor of test_satm, with images for the smooth network."""

    def batches(self):
        for iteration in range(self.iterations):
            yield iteration, *points(seed=iteration)
