"""Which phases each --method goes through, and the loop of each phase."""

from __future__ import annotations

from collections.abc import Sequence

from . import defences, satm
from .satm import Learner, Monitor, Rules

PLANS = {
    "compare": ("clean", "control", "ensemble", "satm"),
    "clean": ("clean",),
    "standard": ("clean", "standard"),
    "ensemble": ("clean", "ensemble"),
    "cascade": ("clean", "standard", "cascade"),
    "satm": ("clean", "satm"),
    "distillation": ("clean", "teacher", "distillation"),
    "penalty": ("clean", "penalty"),
}
ADVERSARIAL = ("standard", "ensemble", "cascade", "satm")  # half of a batch is adversarial
WITH_DOMAIN = ("ensemble", "satm")
AT_A_TEMPERATURE = ("teacher", "distillation")
STATIC = {"ensemble": "undefended", "cascade": "standard", "distillation": "teacher"}  # after what its sources stopped

ALONE = {
    **dict.fromkeys(("clean", "control", "teacher"), defences.train_clean),
    "standard": defences.train_standard,
    "penalty": defences.train_with_penalty,
    "satm": satm.train,
}
FROM_SOURCES = {"ensemble": defences.train_ensemble, "cascade": defences.train_cascade}


def train(
    phase: str, learners: Sequence[Learner], static: Sequence[Learner], rules: Rules, monitor: Monitor,
    *, own_examples: bool = False,
) -> None:  # fmt: skip
    """The loop of a phase. static: frozen networks, one of each learner's name; own_examples: a learner's own too."""
    if phase in ALONE:
        ALONE[phase](learners, rules, monitor)
    elif phase == "distillation":
        defences.train_distilled(learners, static, rules, monitor)
    else:
        others = [[s for s in static if s.name != learner.name] for learner in learners]
        own = [[learner] if own_examples else [] for learner in learners]
        FROM_SOURCES[phase](learners, [a + b for a, b in zip(others, own)], rules, monitor)


def judges(phase: str, learners: Sequence[Learner], static: Sequence[Learner]) -> list[Learner]:
    """Whose examples validation shows to each learner: another network's, its own where it learns from those."""
    if phase == "standard" or len(learners) == 1:
        return list(learners)
    team = static if phase in ADVERSARIAL and static else learners
    return [satm.source(team, k, 0) for k in range(len(team))]
