"""Simultaneous Adversarial Training, Algorithm 1 of the paper: each of its lines is here, with its number.

Networks A and B learn from each other's mistakes: A never sees its own adversarial examples. The loop is written for
any number of networks; for two, the source of A is B and the source of B is A. Lines 17-21 are attacks.r_fgsm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from . import ops
from .attacks import craft
from .backend import array_module, scalar
from .domain import DomainClassifier
from .inputs import python_number
from .layers import seed_dropout
from .models.network import Network
from .optim import Optimiser
from .parallel import ALONE, Team, one_blas_thread
from .streams import stream
from .tensor import Tensor

Array = Any
Losses = dict[str, Any]  # numbers by name; on a GPU arrays without dimensions, for which backend.as_floats waits
Loss = tuple[Tensor, Losses]  # what a network minimises, and its terms as numbers
NetworkLoss = Callable[[Tensor, Array], Tensor]  # of logits and classes
Halves = tuple[Tensor, Tensor, Tensor, Tensor]  # logits and features of the clean images, then of the adversarial ones


@dataclass
class Learner:
    """One network in training, with everything that belongs to it alone. frozen: it crafts, but does not learn."""

    name: str
    network: Network
    optimiser: Optimiser | None = None
    domain: DomainClassifier | None = None
    domain_optimiser: Optimiser | None = None
    frozen: bool = False

    def parts(self) -> dict[str, Any]:
        """What it carries by name: all of these have state() and set_state()."""
        names = ("network", "optimiser", "domain", "domain_optimiser")
        return {name: part for name in names if (part := getattr(self, name)) is not None}

    def state(self) -> dict[str, dict[str, Array]]:
        return {name: part.state() for name, part in self.parts().items()}

    def set_state(self, state: dict[str, dict[str, Array]]) -> None:
        for name, part in self.parts().items():
            part.set_state(state[name])


@dataclass(frozen=True)
class Rules:
    """What line 3 of Algorithm 1 initialises, and the choices that the paper leaves open.

    epsilon and alpha in pixels of [0, 1] (alpha None: epsilon / 2). r_adv and r_da weigh lines 8 and 9. loss_norm:
    "sum" (the paper) or "half" (Tramer: the mean of the clean and the adversarial loss). craft_mode: batch norm while
    crafting. bn_batches: clean and adversarial images go through a network as one batch ("joint") or one after the
    other ("separate"). clip: largest gradient norm, None for no limit. schedule: the factor on the learning rate, by
    iteration.
    """

    epsilon: float = 16 / 256
    alpha: float | None = None
    r_adv: float = 1.0
    r_da: float = 0.1
    attack: str = "r_fgsm"
    loss_norm: str = "sum"
    craft_mode: str = "eval"
    bn_batches: str = "joint"
    clip: float | None = None
    seed: int = 0
    schedule: Callable[[int], float] = lambda iteration: 1.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            object.__setattr__(self, name, python_number(value))


class Monitor(Protocol):
    """Watches a loop: gives it its batches, hears of each step, and says when to stop early."""

    def batches(self) -> Iterable[tuple[int, Array, Array]]: ...

    def stop(self, iteration: int, losses: dict[str, Losses]) -> bool: ...


def train(learners: Sequence[Learner], rules: Rules, monitor: Monitor, team: Team = ALONE) -> None:
    """Lines 2 to 16, for networks that are already fine-tuned on clean images (line 1: defences.train_clean)."""
    # 2, 3: procedure SATM(Network_A, Network_B): the learners hold w_A and w_B, the rules epsilon, alpha, r_adv, r_da
    for iteration, x, y in monitor.batches():  # 4: while not early stopping
        losses = step(learners, x, y, rules, iteration, team)  # 5-14
        if monitor.stop(iteration, losses):  # 4: based on Loss_A + Loss_B
            break
    # 15, 16: end


def step(
    learners: Sequence[Learner], x: Array, y: Array, rules: Rules, iteration: int, team: Team = ALONE
) -> dict[str, Losses]:
    """Lines 5 to 14 for one mini-batch: x (N, H, W, C) in [0, 1], y (N,). Returns each network's loss terms."""
    names = [learner.name for learner in learners]
    # 5, 6: every network crafts with the weights it has now; nothing is updated before all have crafted
    x_adv = dict(zip(names, team.map(lambda learner: examples(learner, x, y, rules, iteration), learners)))

    def learn(learner: Learner) -> Losses:
        if learner.frozen:
            return {}
        other = source(learners, names.index(learner.name), iteration)
        return learn_from(learner, x, y, x_adv[other.name], rules, iteration)

    # 7-9 and 13 for A, 10-12 and 14 for B: the examples are constants, so neither step touches the other network
    return team.train(learn, learners)


def source(learners: Sequence[Learner], k: int, iteration: int) -> Learner:
    """Whose examples network k learns from: the other one's; of several others each in turn (Section 4.3)."""
    return learners[(k + 1 + iteration % (len(learners) - 1)) % len(learners)]


def examples(learner: Learner, x: Array, y: Array, rules: Rules, iteration: int, *, always: bool = False) -> Array:
    """x_adv of this network, a constant array; its random step has a stream of its own (lines 17-21).

    None where both weights are zero, unless `always`: then a step equals clean training.
    """
    if rules.r_adv == rules.r_da == 0 and not always:
        return None
    return craft(
        rules.attack, learner.network, x, y, epsilon=rules.epsilon, alpha=rules.alpha, craft_mode=rules.craft_mode,
        rng=stream(rules.seed, learner.name, "craft", iteration),
    )  # fmt: skip


def learn_from(learner: Learner, x: Array, y: Array, x_adv: Array | None, rules: Rules, iteration: int) -> Losses:
    """Lines 7-9 and 13 (for the other network 10-12 and 14): one loss, one SGD step. x_adv None: clean training."""
    return descend(learner, lambda: loss_terms(learner, x, y, x_adv, rules), rules, iteration)


def descend(learner: Learner, loss: Callable[[], Loss], rules: Rules, iteration: int) -> Losses:
    """One SGD step of a learner in train mode; loss() returns the loss and its terms. Returns the terms."""
    assert learner.optimiser is not None, f"{learner.name} has no optimiser: it cannot learn."
    if not learner.network.training:
        learner.network.train()
    seed_dropout(learner.network, stream(rules.seed, learner.name, "dropout", iteration))
    with one_blas_thread, np.errstate(over="ignore", invalid="ignore"):  # the monitor reports a loss that overflows
        total, terms = loss()
        # g = 1, but NaN for a loss that is not finite: then every gradient is NaN, and the optimiser moves no weight.
        total.backward(total.data * 0 + 1)
        factor = python_number(rules.schedule(iteration))
        terms["learning_rate"] = learner.optimiser.learning_rate * factor
        terms["gradient_norm"] = learner.optimiser.step(factor, rules.clip)  # 13, 14: w <- w + SGD(lr, Loss, w)
        if learner.domain_optimiser is not None:
            learner.domain_optimiser.step(factor, rules.clip)
    return terms


def network_loss(logits: Tensor, y: Array) -> Tensor:
    """Network_loss of lines 7 and 8: mean cross-entropy of logits (N, C) with classes (N,) or soft labels (N, C)."""
    loss: Tensor = ops.softmax_cross_entropy(logits, Tensor(y))
    return loss


def loss_terms(
    learner: Learner, x: Array, y: Array, x_adv: Array | None, rules: Rules, network_loss: NetworkLoss = network_loss
) -> Loss:
    """Loss_A of lines 7-9 as a tensor, and its terms as numbers."""
    if x_adv is None:
        logits, _ = learner.network(Tensor(x))
        clean = network_loss(logits, y)
        return clean, {"loss": scalar(clean.data), "clean": scalar(clean.data), "rate": rate_of(logits, y)}
    return loss_of(learner, both_halves(learner.network, x, x_adv, rules.bn_batches), y, rules, network_loss)


def loss_of(learner: Learner, halves: Halves, y: Array, rules: Rules, network_loss: NetworkLoss = network_loss) -> Loss:
    """The same from the logits and features of both halves."""
    logits, features, logits_adv, features_adv = halves
    clean, adversarial = network_loss(logits, y), network_loss(logits_adv, y)
    share = 0.5 if rules.loss_norm == "half" else 1.0
    total = share * clean  # 7, 10: Network_loss(x, y_true)
    total = total + share * rules.r_adv * adversarial  # 8, 11: + r_adv * Network_loss(x_adv of the other, y_true)
    terms = {"clean": scalar(clean.data), "adversarial": scalar(adversarial.data)}
    terms |= {"rate": rate_of(logits, y), "adversarial_rate": rate_of(logits_adv, y)}
    if learner.domain is not None and rules.r_da:
        domain = learner.domain.loss(features, features_adv)
        total = total + rules.r_da * domain  # 9, 12: + r_da * DA(f(x), f(x_adv of the other)), gradient reversed
        terms["domain"] = scalar(domain.data)
    return total, {"loss": scalar(total.data), **terms}


def both_halves(network: Network, x: Array, x_adv: Array, bn_batches: str) -> Halves:
    """Logits and features of the clean images, then of the adversarial ones."""
    if bn_batches == "separate":
        return *network(Tensor(x)), *network(Tensor(x_adv))
    logits, features = network(Tensor(array_module(x).concatenate([x, x_adv])))
    n = len(x)
    return logits[:n], features[:n], logits[n:], features[n:]


def rate_of(logits: Tensor, y: Array) -> Any:
    """The share of images whose largest logit is that of y (N,)."""
    answers = logits.data.argmax(axis=1)
    return scalar((answers == array_module(answers).asarray(y)).mean(dtype=logits.dtype))
