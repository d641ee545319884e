"""The relatives of SATM that it is measured against, each loop written out; they share the steps of satm.py.

Clean, standard adversarial, ensemble and cascade training, defensive distillation, and the input-gradient penalty.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from . import ops
from .attacks import input_gradient, logits_of
from .attacks.gradients import length, per_sample
from .backend import number
from .layers import seed_dropout
from .parallel import on_all
from .satm import Learner, Losses, Monitor, Rules, by_name, descend, examples, learn_from, network_loss, rate_of
from .streams import stream
from .tensor import Tensor

Array = Any
STEP = 0.01  # of the penalty's finite difference: an L2 length in pixels of [0, 1]


def train_clean(learners: Sequence[Learner], rules: Rules, monitor: Monitor) -> None:
    """Line 1 of Algorithm 1: each network learns from clean images alone. Run again, it is the control."""
    for iteration, x, y in monitor.batches():
        losses = on_all(lambda learner: learn_from(learner, x, y, None, rules, iteration), learners)  # noqa: B023
        if monitor.stop(iteration, by_name(learners, losses)):
            break


def train_standard(learners: Sequence[Learner], rules: Rules, monitor: Monitor) -> None:
    """Adversarial training (Goodfellow et al. 2015): each network learns from its own examples, made as it goes."""
    for iteration, x, y in monitor.batches():

        def learn(learner: Learner) -> Losses:
            x_adv = examples(learner, x, y, rules, iteration)  # noqa: B023
            return learn_from(learner, x, y, x_adv, rules, iteration)  # noqa: B023

        if monitor.stop(iteration, by_name(learners, on_all(learn, learners))):
            break


def train_ensemble(
    learners: Sequence[Learner], sources: Sequence[Sequence[Learner]], rules: Rules, monitor: Monitor
) -> None:
    """Ensemble adversarial training (Tramer et al. 2018): the sources never change, one is drawn for each batch.

    sources[k]: the networks whose examples learner k learns from. Learner k itself may be among them, as in Tramer's:
    when it is drawn, it crafts with the weights it has then. Without it there are no white-box examples.
    """
    for iteration, x, y in monitor.batches():
        losses = learn_from_drawn(learners, sources, x, y, rules, iteration)
        if monitor.stop(iteration, losses):
            break


def train_cascade(
    learners: Sequence[Learner], defended: Sequence[Sequence[Learner]], rules: Rules, monitor: Monitor
) -> None:
    """Cascade adversarial training (Na et al. 2018): ensemble training whose static sources are defended networks.

    defended[k]: networks that went through adversarial training themselves. The unified embedding comes with
    rules.r_embedding: it draws the features of an image and of its adversarial twin together. Na et al. add a network's
    own one-step examples: put it among its sources.
    """
    for iteration, x, y in monitor.batches():
        losses = learn_from_drawn(learners, defended, x, y, rules, iteration)
        if monitor.stop(iteration, losses):
            break


def train_distilled(students: Sequence[Learner], teachers: Sequence[Learner], rules: Rules, monitor: Monitor) -> None:
    """Defensive distillation (Papernot et al. 2016): student k learns what teacher k answers at rules.temperature.

    The teachers were trained at that temperature themselves (train_clean under the same rules). A student is used at
    temperature 1, where its logits are large and its cross-entropy gradients vanish: masked, not robust (Carlini and
    Wagner 2016).
    """
    for iteration, x, y in monitor.batches():

        def learn(k: int) -> Losses:
            soft = soft_labels(teachers[k], x, rules.temperature)  # noqa: B023
            return descend(students[k], lambda: distillation_terms(students[k], x, y, soft, rules), rules, iteration)  # noqa: B023

        if monitor.stop(iteration, by_name(students, on_all(learn, range(len(students))))):
            break


def train_with_penalty(learners: Sequence[Learner], rules: Rules, monitor: Monitor) -> None:
    """Clean training that keeps the input gradient small: J + r_penalty * ||grad_x J||^2, mean over the images.

    Double backpropagation of Drucker and LeCun 1992; as a defence in Ross and Doshi-Velez 2018.
    """
    for iteration, x, y in monitor.batches():

        def learn(learner: Learner) -> Losses:
            ahead = a_step_up(learner, x, y)  # noqa: B023
            return descend(learner, lambda: penalty_terms(learner, x, ahead, y, rules, iteration), rules, iteration)  # noqa: B023

        if monitor.stop(iteration, by_name(learners, on_all(learn, learners))):
            break


def learn_from_drawn(
    learners: Sequence[Learner], sources: Sequence[Sequence[Learner]], x: Array, y: Array, rules: Rules, iteration: int
) -> dict[str, Losses]:
    """One mini-batch of ensemble or cascade training; returns each learner's loss terms."""
    drawn = [
        own[stream(rules.seed, learner.name, "source", iteration).integers(len(own))]
        for learner, own in zip(learners, sources)
    ]
    static = list({id(s): s for s, own in zip(drawn, learners) if s is not own}.values())  # each crafts once
    crafted = on_all(lambda source: examples(source, x, y, rules, iteration), static)
    x_adv = {id(source): array for source, array in zip(static, crafted)}

    def learn(k: int) -> Losses:
        own = learners[k]  # its examples are crafted here, where its weights are up to date
        given = examples(own, x, y, rules, iteration) if drawn[k] is own else x_adv[id(drawn[k])]
        return learn_from(own, x, y, given, rules, iteration)

    return by_name(learners, on_all(learn, range(len(learners))))


def soft_labels(teacher: Learner, x: Array, temperature: float) -> Array:
    """softmax(logits / temperature) of the teacher in eval mode, (N, C)."""
    logits = logits_of(teacher.network, x) / temperature
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    return odds / odds.sum(axis=1, keepdims=True)


def distillation_terms(student: Learner, x: Array, y: Array, soft: Array, rules: Rules) -> tuple[Tensor, Losses]:
    """Cross-entropy of the student with the teacher's soft labels, both at rules.temperature."""
    logits, _ = student.network(Tensor(x))
    loss = network_loss(logits, soft, rules)
    return loss, {"loss": number(loss.data), "clean": number(loss.data), "rate": rate_of(logits, y)}


def a_step_up(learner: Learner, x: Array, y: Array) -> Array:
    """x + STEP * g / ||g||, g each image's own gradient of J: where the penalty looks a second time.

    With batch norm's statistics of the batch, as in the passes that are compared; without dropout.
    """
    g = input_gradient(learner.network, x, y, craft_mode="train")
    return x + g * per_sample(STEP / np.maximum(length(g), 1e-12), g)


def penalty_terms(
    learner: Learner, x: Array, ahead: Array, y: Array, rules: Rules, iteration: int
) -> tuple[Tensor, Losses]:
    """J(x) + r_penalty * mean of ((J(ahead) - J(x)) / STEP)^2, first order only.

    The quotient is ||grad_x J|| up to STEP, and its gradient to the weights a difference of two gradients: what a
    second derivative would give (Finlay and Oberman 2021). Both passes drop the same units.
    """
    logits, _ = learner.network(Tensor(x))
    seed_dropout(learner.network, stream(rules.seed, learner.name, "dropout", iteration))
    logits_ahead, _ = learner.network(Tensor(ahead))
    here, there = (ops.softmax_cross_entropy(z, Tensor(y), reduction="none") for z in (logits, logits_ahead))
    slope = (there - here) * (1 / STEP)
    clean, penalty = here.mean(), (slope * slope).mean()
    total = clean + rules.r_penalty * penalty
    terms = {"clean": number(clean.data), "penalty": number(penalty.data), "rate": rate_of(logits, y)}
    return total, {"loss": number(total.data), **terms}
