"""The settings that only a relative of SATM reads; a run's settings (run/settings.py) include them."""

from __future__ import annotations

from dataclasses import dataclass

from ..inputs import PythonNumbers
from ..setting import OURS, setting

RELATIVES = "relatives of SATM"


@dataclass
class RelativeSettings(PythonNumbers):
    # fmt: off
    own_examples: bool = setting(False, "a network also learns from the examples that it crafts itself", RELATIVES,
        of=("compare", "ensemble", "cascade"), source="Tramer et al. 2018: on")
    r_embedding: float = setting(0.01, "weight of the distance between the features of an image and of its "
        "adversarial example", RELATIVES, least=0, source=OURS, of=("cascade",))
    temperature: float = setting(20.0, "the number that the logits are divided by in the losses of teacher and student",
        RELATIVES, least=1, most=1000, source="Papernot et al. 2016: 20", of=("distillation",))
    r_penalty: float = setting(0.03, "weight of the squared L2 norm of the input gradient", RELATIVES, least=0,
        source=OURS, of=("penalty",))
    # fmt: on
