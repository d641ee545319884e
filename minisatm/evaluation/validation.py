"""Validation while training: loss terms and rates of each learner, on clean images and on its source's examples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..attacks import craft
from ..backend import as_floats
from ..parallel import ALONE, Team
from ..satm import Learner, Losses, Rules, loss_terms
from ..streams import stream
from ..tape import no_grad

Array = Any


def validate(
    learners: Sequence[Learner],
    sources: Sequence[Learner | None],
    batches: Any,
    rules: Rules,
    *,
    limit: int,
    team: Team = ALONE,
    loss: Callable[..., Any] = loss_terms,
) -> dict[str, Losses]:
    """Each learner's loss terms and rates over the first `limit` images, clean and as its source attacks them.

    Networks answer and craft in eval mode, whatever the rules say of crafting while training. Any process may take any
    network: all must have the same weights.
    """
    images = list(batches.in_order(limit))
    distinct = list({s.name: s for s in sources if s is not None}.values())
    jobs = [(source, b) for b in range(len(images)) for source in distinct]
    x_adv = {
        (source.name, b): crafted
        for (source, b), crafted in zip(
            jobs, team.map(lambda job: _examples(job[0], *images[job[1]], rules, job[1]), jobs)
        )
    }

    def terms(job: tuple[int, int]) -> Losses:
        (k, b), source = job, sources[job[0]]
        with learners[k].network.mode(False), no_grad(), np.errstate(over="ignore", invalid="ignore"):
            own = loss(learners[k], *images[b], None if source is None else x_adv[source.name, b], rules)[1]
        return as_floats({"": own})[""]

    looks = [(k, b) for b in range(len(images)) for k in range(len(learners))]
    means: dict[str, Losses] = {learner.name: {} for learner in learners}
    seen = sum(len(y) for _, y in images)
    for (k, b), own in zip(looks, team.map(terms, looks)):
        mean = means[learners[k].name]
        for term, value in own.items():
            mean[term] = mean.get(term, 0.0) + value * len(images[b][1]) / seen
    return means


def _examples(source: Learner, x: Array, y: Array, rules: Rules, batch: int) -> Array:
    rng = stream(rules.seed, source.name, "validate", batch)
    return craft(rules.attack, source.network, x, y, epsilon=rules.epsilon, alpha=rules.alpha, rng=rng)
