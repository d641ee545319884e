"""Simultaneous Adversarial Training, Algorithm 1 of the paper: each of its lines is here, with its number.

Networks A and B learn from one another's mistakes: A never sees its own adversarial examples. The loop is written for
any number of networks; for two, the source of A is B and the source of B is A. Lines 17-21 are attacks.r_fgsm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from . import ops
from .attacks import craft
from .backend import array_module, number
from .domain import DomainClassifier
from .layers import seed_dropout
from .models.network import Network
from .optim import Optimiser
from .parallel import on_all, one_blas_thread
from .streams import stream
from .tensor import Tensor

Array = Any
Losses = dict[str, Any]  # numbers by name; on a GPU arrays of no dimensions


@dataclass
class Learner:
    """One network in training, with what belongs to it alone."""

    name: str
    network: Network
    optimiser: Optimiser | None
    domain: DomainClassifier | None = None
    domain_optimiser: Optimiser | None = None
    frozen: bool = False  # crafts, but does not learn


@dataclass(frozen=True)
class Rules:
    """What line 3 of Algorithm 1 initialises, and the choices that the paper leaves open.

    epsilon and alpha in pixels of [0, 1] (alpha None: epsilon / 2). r_adv and r_da weigh lines 8 and 9. loss_norm:
    "sum" (the paper) or "half" (Tramer: the mean of the clean and the adversarial loss). craft_mode: batch norm while
    crafting. bn_batches: clean and adversarial images go through a network as one batch ("joint") or one after the
    other ("separate"). clip: largest gradient norm, None for no limit. schedule: the factor on the learning rate, by
    iteration. r_embedding, temperature and r_penalty are for the relatives in defences.py.
    """

    epsilon: float = 16 / 256
    alpha: float | None = None
    r_adv: float = 1.0
    r_da: float = 0.1
    attack: str = "r_fgsm"
    loss_norm: str = "sum"
    craft_mode: str = "eval"
    bn_batches: str = "joint"
    r_embedding: float = 0.0
    temperature: float = 1.0
    r_penalty: float = 0.0
    clip: float | None = None
    seed: int = 0
    schedule: Callable[[int], float] = lambda iteration: 1.0


class Monitor(Protocol):
    """Who watches a loop: hands it its batches, hears of each step, and says when to stop early."""

    def batches(self) -> Iterable[tuple[int, Array, Array]]: ...

    def stop(self, iteration: int, losses: dict[str, Losses]) -> bool: ...


def train(learners: Sequence[Learner], rules: Rules, monitor: Monitor) -> None:
    """Lines 2 to 16, for networks that are already fine-tuned on clean images (line 1: defences.train_clean)."""
    # 2, 3: procedure SATM(Network_A, Network_B): the learners hold w_A and w_B, the rules epsilon, alpha, r_adv, r_da
    for iteration, x, y in monitor.batches():  # 4: while not early stopping
        losses = step(learners, x, y, rules, iteration)  # 5-14
        if monitor.stop(iteration, losses):  # 4: based on Loss_A + Loss_B
            break
    # 15, 16: end


def step(learners: Sequence[Learner], x: Array, y: Array, rules: Rules, iteration: int) -> dict[str, Losses]:
    """Lines 5 to 14 for one mini-batch: x (N, H, W, C) in [0, 1], y (N,). Returns each network's loss terms.

    Where x and the networks are on a GPU, the terms are arrays there: backend.numbers(terms) waits for them.
    """

    # 5, 6: every network crafts with the weights it has now; nothing is updated before all have crafted
    x_adv = dict(zip((k.name for k in learners), on_all(lambda k: examples(k, x, y, rules, iteration), learners)))

    def learn(k: int) -> Losses:
        if learners[k].frozen:
            return {}
        return learn_from(learners[k], x, y, x_adv[source(learners, k, iteration).name], rules, iteration)

    # 7-9 and 13 for A, 10-12 and 14 for B: the examples are constants, so neither step touches the other network
    return by_name(learners, on_all(learn, range(len(learners))))


def by_name(learners: Sequence[Learner], losses: Sequence[Losses]) -> dict[str, Losses]:
    """What a step returns: each learner's losses by its name."""
    return {learner.name: own for learner, own in zip(learners, losses)}


def source(learners: Sequence[Learner], k: int, iteration: int) -> Learner:
    """Whose examples network k learns from: the other one; of several others, each in turn (Section 4.3)."""
    others = len(learners) - 1
    return learners[(k + 1 + iteration % others) % len(learners)]


def examples(learner: Learner, x: Array, y: Array, rules: Rules, iteration: int) -> Array | None:
    """x_adv of this network, a constant array; its random step is a stream of its own (lines 17-21).

    None where neither r_adv nor another weight would read it: then a step equals clean training.
    """
    if rules.r_adv == rules.r_da == rules.r_embedding == 0:
        return None
    return craft(
        rules.attack, learner.network, x, y, epsilon=rules.epsilon, alpha=rules.alpha, craft_mode=rules.craft_mode,
        rng=stream(rules.seed, learner.name, "craft", iteration),
    )  # fmt: skip


def learn_from(learner: Learner, x: Array, y: Array, x_adv: Array | None, rules: Rules, iteration: int) -> Losses:
    """Lines 7-9 and 13 (for the other network 10-12 and 14): one loss, one SGD step. x_adv None: clean training."""
    return descend(learner, lambda: loss_terms(learner, x, y, x_adv, rules), rules, iteration)


def descend(learner: Learner, loss: Callable[[], tuple[Tensor, Losses]], rules: Rules, iteration: int) -> Losses:
    """One SGD step of a learner in train mode on the loss, which comes with its terms; returns those."""
    if not learner.network.training:
        learner.network.train()
    seed_dropout(learner.network, stream(rules.seed, learner.name, "dropout", iteration))
    with one_blas_thread(), np.errstate(over="ignore", invalid="ignore"):  # whoever watches the loop says it in words
        total, terms = loss()
        total.backward(total.data * 0 + 1)  # 1, or NaN where the loss is not finite: then no weight moves
        factor = rules.schedule(iteration)
        terms["learning_rate"] = learner.optimiser.learning_rate * factor
        terms["gradient_norm"] = learner.optimiser.step(factor, rules.clip)  # 13, 14: w <- w + SGD(lr, Loss, w)
        if learner.domain_optimiser is not None:
            learner.domain_optimiser.step(factor, rules.clip)
    return terms


def loss_terms(learner: Learner, x: Array, y: Array, x_adv: Array | None, rules: Rules) -> tuple[Tensor, Losses]:
    """Loss_A of lines 7-9 as a tensor, and its terms as numbers."""
    share = 0.5 if rules.loss_norm == "half" else 1.0
    if x_adv is None:
        logits, _ = learner.network(Tensor(x))
        clean = network_loss(logits, y, rules)
        return clean, {"loss": number(clean.data), "clean": number(clean.data), "rate": rate_of(logits, y)}

    logits, features, logits_adv, features_adv = _both_halves(learner.network, x, x_adv, rules.bn_batches)
    clean, adversarial = network_loss(logits, y, rules), network_loss(logits_adv, y, rules)
    total = share * clean  # 7, 10: Network_loss(x, y_true)
    total = total + share * rules.r_adv * adversarial  # 8, 11: + r_adv * Network_loss(x_adv of the other, y_true)
    terms = {"clean": number(clean.data), "adversarial": number(adversarial.data)}
    terms |= {"rate": rate_of(logits, y), "adversarial_rate": rate_of(logits_adv, y)}
    if learner.domain is not None and rules.r_da:
        domain = learner.domain.loss(features, features_adv)
        total = total + rules.r_da * domain  # 9, 12: + r_da * DA(f(x), f(x_adv of the other)), gradient reversed
        terms["domain"] = number(domain.data)
    if rules.r_embedding:
        apart = features_adv - features  # Na et al. 2018: an image and its adversarial twin shall have like features
        embedding = (apart * apart).sum() * (1 / len(x))
        total = total + rules.r_embedding * embedding
        terms["embedding"] = number(embedding.data)
    return total, {"loss": number(total.data), **terms}


def network_loss(logits: Tensor, y: Array, rules: Rules) -> Tensor:
    """Network_loss of lines 7 and 8: cross-entropy, with y (N,) or soft labels (N, C).

    At a temperature T it is T times that of logits / T: the factor gives the gradient its size back.
    """
    if rules.temperature == 1:
        return ops.softmax_cross_entropy(logits, Tensor(y))
    return rules.temperature * ops.softmax_cross_entropy(logits * (1 / rules.temperature), Tensor(y))


def _both_halves(network: Network, x: Array, x_adv: Array, bn_batches: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Logits and features of the clean images, then of the adversarial ones."""
    if bn_batches == "separate":
        return *network(Tensor(x)), *network(Tensor(x_adv))
    logits, features = network(Tensor(np.concatenate([x, x_adv])))
    n = len(x)
    return logits[:n], features[:n], logits[n:], features[n:]


def rate_of(logits: Tensor, y: Array) -> Any:
    """The share of images whose largest logit is that of y (N,)."""
    answers = logits.data.argmax(axis=1)
    return number((answers == array_module(answers).asarray(y)).mean(dtype=logits.dtype))
