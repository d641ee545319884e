"""The relatives of SATM that it is compared with: what each learns from, and its loss. They share satm.py's SGD step.

Clean, standard adversarial, ensemble and cascade training, defensive distillation, and the input-gradient penalty. Each
takes a `team`: the process or processes that train the learners.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from .. import ops, satm
from ..attacks import input_gradient, logits_of
from ..attacks.gradients import length, per_sample
from ..backend import scalar
from ..inputs import python_number
from ..layers import seed_dropout
from ..parallel import ALONE, Team
from ..satm import Learner, Loss, Losses, Monitor, Rules, both_halves, descend, examples, learn_from, loss_of
from ..streams import stream
from ..tensor import Tensor

Array = Any
STEP = 0.01  # of the penalty's finite difference: an L2 length in pixels of [0, 1]


def train_clean(
    learners: Sequence[Learner], rules: Rules, monitor: Monitor, team: Team = ALONE, *, temperature: float = 1.0
) -> None:
    """Line 1 of Algorithm 1: each network learns from clean images alone. Run again, it is the control.

    temperature: that of the loss, above 1 for the teachers of distillation.
    """
    loss = partial(satm.loss_terms, network_loss=at_temperature(temperature))

    def learn(learner: Learner, x: Array, y: Array, iteration: int) -> Losses:
        return descend(learner, lambda: loss(learner, x, y, None, rules), rules, iteration)

    _train_each(learn, learners, monitor, team)


def train_standard(learners: Sequence[Learner], rules: Rules, monitor: Monitor, team: Team = ALONE) -> None:
    """Adversarial training (Goodfellow et al. 2015): each network learns from its own examples, crafted as it goes."""

    def learn(learner: Learner, x: Array, y: Array, iteration: int) -> Losses:
        return learn_from(learner, x, y, examples(learner, x, y, rules, iteration), rules, iteration)

    _train_each(learn, learners, monitor, team)


def train_ensemble(
    learners: Sequence[Learner], sources: Sequence[Sequence[Learner]], rules: Rules, monitor: Monitor,
    team: Team = ALONE, *, loss: Callable[..., Loss] | None = None,
) -> None:  # fmt: skip
    """Ensemble adversarial training (Tramer et al. 2018): the sources never change, one is drawn for each batch.

    sources[k]: the networks whose examples learner k learns from. Learner k itself may be among them, as in Tramer's:
    when it is drawn, it crafts with the weights it has then. Without it there are no white-box examples.
    loss: what to use in place of satm.loss_terms.
    """
    for iteration, x, y in monitor.batches():
        drawn = {
            learner.name: choice[int(stream(rules.seed, learner.name, "source", iteration).integers(len(choice)))]
            for learner, choice in zip(learners, sources)
        }
        craft = partial(examples, x=x, y=y, rules=rules, iteration=iteration, always=loss is not None)
        static = list({id(s): s for s, learner in zip(drawn.values(), learners) if s is not learner}.values())
        x_adv = {id(source): array for source, array in zip(static, team.map(craft, static))}  # each crafts once

        def learn(learner: Learner) -> Losses:
            source = drawn[learner.name]  # noqa: B023
            # a learner that is its own source crafts here, where its weights are up to date
            given = craft(learner) if source is learner else x_adv[id(source)]  # noqa: B023
            terms = loss or satm.loss_terms
            return descend(learner, lambda: terms(learner, x, y, given, rules), rules, iteration)  # noqa: B023

        if monitor.stop(iteration, team.train(learn, learners)):
            break


def train_cascade(
    learners: Sequence[Learner], defended: Sequence[Sequence[Learner]], rules: Rules, monitor: Monitor,
    team: Team = ALONE, *, r_embedding: float = 0.0,
) -> None:  # fmt: skip
    """Cascade adversarial training (Na et al. 2018): ensemble training whose static sources are defended networks.

    defended[k]: networks that went through adversarial training themselves. r_embedding weighs the unified embedding,
    which brings the features of an image and of its adversarial example together. Na et al. add a network's own
    one-step examples: put it among its sources.
    """
    loss = partial(embedding_terms, r_embedding=r_embedding) if r_embedding else None
    train_ensemble(learners, defended, rules, monitor, team, loss=loss)


def train_distilled(
    students: Sequence[Learner], teachers: Sequence[Learner], rules: Rules, monitor: Monitor, team: Team = ALONE,
    *, temperature: float,
) -> None:  # fmt: skip
    """Defensive distillation (Papernot et al. 2016): student k learns what teacher k answers at this temperature.

    The teachers were trained at that temperature themselves (train_clean). A student is used at temperature 1, where
    its logits are large and its cross-entropy gradients vanish: they are masked, and it is not robust (Carlini and
    Wagner 2016).
    """
    teacher = {student.name: teacher for student, teacher in zip(students, teachers)}

    def learn(student: Learner, x: Array, y: Array, iteration: int) -> Losses:
        soft = soft_labels(teacher[student.name], x, temperature)
        return descend(student, lambda: distillation_terms(student, x, y, soft, temperature), rules, iteration)

    _train_each(learn, students, monitor, team)


def train_with_penalty(
    learners: Sequence[Learner], rules: Rules, monitor: Monitor, team: Team = ALONE, *, r_penalty: float
) -> None:
    """Clean training that keeps the input gradient small: J + r_penalty * ||grad_x J||^2, mean over the images.

    Double backpropagation of Drucker and LeCun 1992; as a defence in Ross and Doshi-Velez 2018.
    """

    def learn(learner: Learner, x: Array, y: Array, iteration: int) -> Losses:
        ahead = a_step_up(learner, x, y)
        drop = stream(rules.seed, learner.name, "dropout", iteration)
        return descend(learner, lambda: penalty_terms(learner, x, ahead, y, drop, r_penalty), rules, iteration)

    _train_each(learn, learners, monitor, team)


def _train_each(
    learn: Callable[[Learner, Array, Array, int], Losses], learners: Sequence[Learner], monitor: Monitor, team: Team
) -> None:
    """The loop of relatives whose networks do not need one another: each learns from every batch by itself."""
    for iteration, x, y in monitor.batches():
        losses = team.train(lambda learner: learn(learner, x, y, iteration), learners)  # noqa: B023
        if monitor.stop(iteration, losses):
            break


def embedding_terms(learner: Learner, x: Array, y: Array, x_adv: Array, rules: Rules, *, r_embedding: float) -> Loss:
    """satm.loss_terms + r_embedding * ||f(x_adv) - f(x)||^2, mean over the images: Na et al. 2018."""
    halves = both_halves(learner.network, x, x_adv, rules.bn_batches)
    total, terms = loss_of(learner, halves, y, rules)
    _, features, _, features_adv = halves
    apart = features_adv - features
    embedding = (apart * apart).sum() * (1 / len(x))
    total = total + r_embedding * embedding
    return total, {**terms, "loss": scalar(total.data), "embedding": scalar(embedding.data)}


def at_temperature(temperature: float) -> Callable[[Tensor, Array], Tensor]:
    """Network_loss at a temperature T: T times the cross-entropy of logits / T (T keeps the gradient's size)."""
    temperature = python_number(temperature)
    if temperature == 1:
        return satm.network_loss
    return lambda logits, y: temperature * satm.network_loss(logits * (1 / temperature), y)


def soft_labels(teacher: Learner, x: Array, temperature: float) -> Array:
    """softmax(logits / temperature) of the teacher in eval mode, (N, C)."""
    logits = logits_of(teacher.network, x) / python_number(temperature)
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    return odds / odds.sum(axis=1, keepdims=True)


def distillation_terms(student: Learner, x: Array, y: Array, soft: Array, temperature: float) -> Loss:
    """Cross-entropy of the student with the teacher's soft labels, both at this temperature."""
    logits, _ = student.network(Tensor(x))
    loss = at_temperature(temperature)(logits, soft)
    return loss, {"loss": scalar(loss.data), "clean": scalar(loss.data), "rate": satm.rate_of(logits, y)}


def a_step_up(learner: Learner, x: Array, y: Array) -> Array:
    """x + STEP * g / ||g||, g each image's own gradient of J: the second point of the penalty's difference.

    With batch norm's statistics of the batch, as in the passes that are compared; without dropout.
    """
    g = input_gradient(learner.network, x, y, craft_mode="train")
    return x + g * per_sample(STEP / np.maximum(length(g), 1e-12), g)


def penalty_terms(
    learner: Learner, x: Array, ahead: Array, y: Array, drop: np.random.Generator, r_penalty: float
) -> Loss:
    """J(x) + r_penalty * mean of ((J(ahead) - J(x)) / STEP)^2, first order only.

    The quotient is ||grad_x J|| up to STEP, and its gradient to the weights a difference of two gradients: what a
    second derivative would give (Finlay and Oberman 2021). drop: a generator at the start of this step's dropout
    stream, so that both passes drop the same units.
    """
    logits, _ = learner.network(Tensor(x))
    seed_dropout(learner.network, drop)
    logits_ahead, _ = learner.network(Tensor(ahead))
    here, there = (ops.softmax_cross_entropy(z, Tensor(y), reduction="none") for z in (logits, logits_ahead))
    slope = (there - here) * (1 / STEP)
    clean, penalty = here.mean(), (slope * slope).mean()
    total = clean + r_penalty * penalty
    terms = {"clean": scalar(clean.data), "penalty": scalar(penalty.data), "rate": satm.rate_of(logits, y)}
    return total, {"loss": scalar(total.data), **terms}
