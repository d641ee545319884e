"""Which phases each --method goes through, and the training loop of each phase."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from .. import satm
from ..defences import training
from ..parallel import ALONE, Team
from ..satm import Learner, Monitor, Rules

PLANS: dict[str, tuple[str, ...]] = {
    "compare": ("clean", "control", "ensemble", "satm"), "clean": ("clean",), "standard": ("clean", "standard"),
    "ensemble": ("clean", "ensemble"), "cascade": ("clean", "standard", "cascade"), "satm": ("clean", "satm"),
    "distillation": ("clean", "teacher", "distillation"), "penalty": ("clean", "penalty"),
}  # fmt: skip
ADVERSARIAL = ("standard", "ensemble", "cascade", "satm")  # half of a batch is adversarial
WITH_DOMAIN = ("ensemble", "satm")
# The static networks of a phase, which craft or teach but do not learn, are those at the end of this earlier phase.
STATIC = {"ensemble": "undefended", "cascade": "standard", "distillation": "teacher"}
# The settings that only this phase reads.
OWN_SETTINGS = {"cascade": ("r_embedding",), "penalty": ("r_penalty",)}
OWN_SETTINGS |= dict.fromkeys(("teacher", "distillation"), ("temperature",))

Loops = dict[str, Callable[..., None]]
ALONE_LOOPS: Loops = {
    **dict.fromkeys(("clean", "control", "teacher"), training.train_clean), "standard": training.train_standard,
    "penalty": training.train_with_penalty, "satm": satm.train,
}  # fmt: skip
LOOPS_WITH_SOURCES: Loops = {"ensemble": training.train_ensemble, "cascade": training.train_cascade}


def own_settings(phase: str, settings: Any) -> dict[str, Any]:
    """The settings that only this phase reads, as the keyword arguments of its loop."""
    return {name: getattr(settings, name) for name in OWN_SETTINGS.get(phase, ())}


def train(
    phase: str, learners: Sequence[Learner], static: Sequence[Learner], rules: Rules, monitor: Monitor,
    team: Team = ALONE, *, own_examples: bool = False, **own: Any,
) -> None:  # fmt: skip
    """The loop of a phase. static: frozen networks, one of each learner's name; own_examples: a learner's own too.

    own: what `own_settings` gives for this phase.
    """
    if phase in LOOPS_WITH_SOURCES:
        sources = [[s for s in static if s.name != k.name] + [k] * own_examples for k in learners]
        LOOPS_WITH_SOURCES[phase](learners, sources, rules, monitor, team, **own)
    elif phase == "distillation":
        training.train_distilled(learners, static, rules, monitor, team, **own)
    else:
        ALONE_LOOPS[phase](learners, rules, monitor, team, **own)


def validation_loss(phase: str, own: dict[str, Any]) -> Callable[..., Any]:
    """The loss that validation computes: the one that the phase trains on, of satm.loss_terms' arguments."""
    if "temperature" in own:
        return partial(satm.loss_terms, network_loss=training.at_temperature(own["temperature"]))
    if own.get("r_embedding"):
        return partial(training.embedding_terms, r_embedding=own["r_embedding"])
    return satm.loss_terms


def validation_sources(phase: str, learners: Sequence[Learner], static: Sequence[Learner]) -> list[Learner]:
    """The learner whose examples validation shows to each: another network, itself where it learns from its own."""
    if phase == "standard" or len(learners) == 1:
        return list(learners)
    others = static if phase in ADVERSARIAL and static else learners
    return [satm.source(others, k, 0) for k in range(len(others))]
