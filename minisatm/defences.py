"""The relatives of SATM that it is measured against, each loop written out: clean fine-tuning and ensemble training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .parallel import on_all
from .satm import Learner, Losses, Monitor, Rules, examples, learn_from

Array = Any


def train_clean(learners: Sequence[Learner], rules: Rules, monitor: Monitor) -> None:
    """Line 1 of Algorithm 1: each network learns from clean images alone. Run again, it is the control."""
    for iteration, x, y in monitor.batches():
        losses = on_all(lambda learner: learn_from(learner, x, y, None, rules, iteration), learners)  # noqa: B023
        if monitor.stop(iteration, {learner.name: own for learner, own in zip(learners, losses)}):
            break


def train_ensemble(
    learners: Sequence[Learner], sources: Sequence[Sequence[Learner]], rules: Rules, monitor: Monitor
) -> None:
    """Ensemble adversarial training (Tramer et al. 2018) without white-box examples: the sources never change.

    sources[k] are the frozen networks whose examples learner k learns from, one a batch, in turn.
    """
    for iteration, x, y in monitor.batches():
        losses = ensemble_step(learners, sources, x, y, rules, iteration)
        if monitor.stop(iteration, losses):
            break


def ensemble_step(
    learners: Sequence[Learner], sources: Sequence[Sequence[Learner]], x: Array, y: Array, rules: Rules, iteration: int
) -> dict[str, Losses]:
    """One mini-batch of ensemble training; returns each learner's loss terms."""
    chosen = [own[iteration % len(own)] for own in sources]
    distinct = list({id(source): source for source in chosen}.values())  # a source that serves two learners crafts once
    crafted = on_all(lambda source: examples(source, x, y, rules, iteration), distinct)
    x_adv = {id(source): array for source, array in zip(distinct, crafted)}
    losses = on_all(
        lambda k: learn_from(learners[k], x, y, x_adv[id(chosen[k])], rules, iteration), range(len(learners))
    )
    return {learner.name: own for learner, own in zip(learners, losses)}
