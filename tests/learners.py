"""Small networks in training for the tests of SATM and its relatives, and the step written out by hand."""

import numpy as np

from minisatm import Tensor, grad, models, ops, optim, satm
from minisatm.domain import DomainClassifier
from minisatm.layers import seed_dropout
from minisatm.satm import Learner
from minisatm.streams import random_bits, stream

N, CLASSES, SIZE, RATE = 4, 5, 32, 0.05
KINDS = {"a": ("vgg16", 1 / 64), "b": ("resnet20", 1 / 8), "c": ("resnet20", 1 / 8), "d": ("resnet20", 1 / 8)}


def learner(name, *, domain=True, frozen=False, rate=RATE, dropout=0.5):
    kind, width = KINDS[name]
    variant = {"dropout": dropout} if kind == "vgg16" else {}
    network = models.build(kind, classes=CLASSES, width=width, size=SIZE, rng=stream(0, name, "start"), **variant)
    own = Learner(name, network, None if frozen else optim.SGD(network.parameters(), rate), frozen=frozen)
    if domain and not frozen:
        own.domain = DomainClassifier(network.feature_width, width=6, rng=stream(0, name, "domain"))
        own.domain_optimiser = optim.SGD(own.domain.parameters(), rate)
    return own


def batch(iteration=0):
    rng = np.random.default_rng([77, iteration])
    return rng.random((N, SIZE, SIZE, 3), np.float32), rng.integers(0, CLASSES, N)


def bits(*learners):
    """Everything that a step may change: weights, buffers, momentum, the classifier's too."""
    found = {}
    for own in learners:
        for part in ("network", "optimiser", "domain", "domain_optimiser"):
            if getattr(own, part) is not None:
                found |= {f"{own.name}.{part}.{n}": a.tobytes() for n, a in getattr(own, part).state().items()}
    return found


class Batches:
    """A monitor that hands out a few batches, notes the losses, and stops where it is told to."""

    def __init__(self, iterations, stop_after=None):
        self.iterations, self.stop_after, self.seen = iterations, stop_after, []

    def batches(self):
        for iteration in range(self.iterations):
            yield iteration, *batch(iteration)

    def stop(self, iteration, losses):
        self.seen.append((iteration, losses))
        return iteration == self.stop_after


class ByHand:
    """One network trained by Algorithm 1 with nothing but ops and arrays."""

    def __init__(self, own):
        self.name, self.network, self.domain = own.name, own.network, own.domain
        self.velocity = {n: np.zeros_like(t.data) for n, t in self._weights().items()}

    def _weights(self):
        own = {f"network.{n}": t for n, t in self.network.parameters().items()}
        return own | {f"domain.{n}": t for n, t in self.domain.parameters().items()}

    def craft(self, x, y, rules, iteration):
        alpha = rules.epsilon / 2 if rules.alpha is None else rules.alpha
        bits = np.unpackbits(random_bits(stream(rules.seed, self.name, "craft", iteration), x.size), count=x.size)
        signs = np.where(bits, np.float32(1), np.float32(-1)).reshape(x.shape)
        start = Tensor(np.clip(x + alpha * signs, 0, 1), requires_grad=True)
        self.network.eval()
        (g,) = grad(ops.softmax_cross_entropy(self.network(start)[0], Tensor(y), reduction="sum"), [start])
        return np.clip(start.data + (rules.epsilon - alpha) * np.sign(g), 0, 1)

    def learn(self, x, y, x_adv, rules, iteration):
        self.network.train()
        seed_dropout(self.network, stream(rules.seed, self.name, "dropout", iteration))
        logits, features = self.network(Tensor(np.concatenate([x, x_adv])))
        clean = ops.softmax_cross_entropy(logits[:N], Tensor(y))
        adversarial = ops.softmax_cross_entropy(logits[N:], Tensor(y))
        share = 0.5 if rules.loss_norm == "half" else 1.0
        total = share * clean + share * rules.r_adv * adversarial
        terms = {"clean": float(clean), "adversarial": float(adversarial)}
        if rules.r_da:
            D = self.domain
            hidden = ops.relu(ops.linear(ops.reverse_gradient(features, strength=1.0), D.fc1.weight, D.fc1.bias))
            logit = ops.linear(hidden, D.fc2.weight, D.fc2.bias).reshape(2 * N)
            domain = ops.binary_cross_entropy(logit, Tensor(np.repeat(np.float32([0, 1]), N)))
            total = total + rules.r_da * domain
            terms["domain"] = float(domain)
        total.backward()
        for n, w in self._weights().items():
            if w.grad is not None:
                self.velocity[n] = 0.9 * self.velocity[n] + w.grad
                w.data = w.data - RATE * self.velocity[n]
                w.grad = None
        return {"loss": float(total), **terms}


def record_crafting(monkeypatch):
    """Notes the state of all networks at each crafting, and what each network was given to learn from."""
    crafted, learned = {}, []
    craft, learn = satm.examples, satm.learn_from

    def examples(own, *rest):
        crafted[own.name] = (bits(own), craft(own, *rest))
        return crafted[own.name][1]

    def learn_from(own, x, y, x_adv, *rest):
        learned.append((own.name, x_adv))
        return learn(own, x, y, x_adv, *rest)

    monkeypatch.setattr(satm, "examples", examples)
    monkeypatch.setattr(satm, "learn_from", learn_from)
    return crafted, learned
