"""Validation while training: loss terms and rates of each learner, on clean images and on its source's examples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..backend import as_floats
from ..parallel import ALONE, Team
from ..satm import Learner, Losses, Rules, loss_terms
from ..tape import no_grad
from .setting import AttackSetting, examples, with_places

Array = Any


def validate(
    learners: Sequence[Learner], sources: Sequence[Learner | None], batches: Any, rules: Rules, *, limit: int,
    team: Team = ALONE, loss: Callable[..., Any] = loss_terms,
) -> dict[str, Losses]:  # fmt: skip
    """Each learner's loss terms and rates over the first `limit` images, clean and as its source attacks them.

    Networks answer and craft in eval mode, whatever the rules say of crafting while training; examples are 8-bit
    pixels. Any process may take any network: all must have the same weights.
    """
    images = list(with_places(batches, limit))
    setting = AttackSetting(rules.attack, rules.epsilon, rules.alpha)
    distinct = {source.name: source for source in sources if source is not None}

    def crafted(job: tuple[str, int]) -> Array:
        name, b = job
        x, y, places = images[b]
        return examples(distinct[name].network, x, y, setting, seed=rules.seed, source=name, places=places)[1]

    def terms(job: tuple[int, int]) -> Losses:
        (k, b), source = job, sources[job[0]]
        with learners[k].network.mode(False), no_grad(), np.errstate(over="ignore", invalid="ignore"):
            losses = loss(learners[k], *images[b][:2], None if source is None else x_adv[source.name, b], rules)[1]
        return as_floats({"": losses})[""]

    crafting = [(name, b) for b in range(len(images)) for name in distinct]
    x_adv = dict(zip(crafting, team.map(crafted, crafting)))
    jobs = [(k, b) for b in range(len(images)) for k in range(len(learners))]
    means: dict[str, Losses] = {learner.name: {} for learner in learners}
    count = sum(len(y) for _, y, _ in images)
    for (k, b), losses in zip(jobs, team.map(terms, jobs)):
        mean = means[learners[k].name]
        for term, value in losses.items():
            mean[term] = mean.get(term, 0.0) + value * len(images[b][1]) / count
    return means
