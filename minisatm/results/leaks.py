"""The warnings about leaks: the one rule and the one wording, for a run's report and for an evaluation."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from .rows import Leak

SHOWN = 3  # so many rates that chance can explain are named; more are only counted


def leak_sentences(leaks: Sequence[Leak], name: Callable[[Leak], str]) -> list[str]:
    """A warning for each adversarial rate that is surely above the clean one, then one sentence about the others.

    Surely: the paired 95 % interval of the difference lies above 0. Where it does not, chance can explain the
    difference. name(leak) says which network and examples it is about, such as "SATM vgg16, partner new".
    """
    known = [leak for leak in leaks if not math.isnan(leak.rate + leak.clean_rate + leak.low)]
    lines = [
        f"WARNING: {name(leak)}: {100 * leak.rate:.1f} % beats clean {100 * leak.clean_rate:.1f} %"
        + (": the attack may leak the true label; compare with examples crafted from predicted labels."
           if leak.rate_from_predicted_labels is None else "; crafted from predicted labels, which cannot leak the "
           f"true one, it is {100 * leak.rate_from_predicted_labels:.1f} %.")
        for leak in known if leak.low > 0
    ]  # fmt: skip
    chance = [leak for leak in known if leak.low <= 0]
    if len(chance) > SHOWN:
        text = f"{len(chance)} rates are above the clean rate, but chance can explain it (tables/leaks.csv lists them)."
        return [*lines, text]
    named = "; ".join(
        f"{name(leak)}: {100 * leak.rate:.1f} % (clean {100 * leak.clean_rate:.1f} %"
        + ("" if leak.rate_from_predicted_labels is None else
           f"; crafted from predicted labels {100 * leak.rate_from_predicted_labels:.1f} %") + ")"
        for leak in chance
    )  # fmt: skip
    return [*lines, f"Above the clean rate, but chance can explain it: {named}."] if chance else lines
