"""Rates against epsilon. At the end of the scale a white-box attack must leave no more than chance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import metrics
from ..models.network import Network
from ..results.screen import aligned, percent
from .crossing import Crossing, cross
from .setting import AttackSetting

Rows = list[dict[str, Any]]
STEPS = (2 / 256, 4 / 256, 8 / 256, 16 / 256, 32 / 256, 64 / 256, 128 / 256, 1.0)  # of the scale


def epsilons(given: Sequence[float], setting: AttackSetting, shape: Sequence[int]) -> list[float]:
    """The points of a curve after 0: those given, and more up to where any image can become any other.

    shape: of an image. Where epsilon is a length, the scale ends at the diagonal of the box of images.
    """
    end = float(np.sqrt(np.prod(shape))) if setting.unit else 1.0
    return sorted({*(e for e in given if e), *(end * step for step in STEPS)})


def curve(
    networks: dict[str, Network], batches: Any, setting: AttackSetting, points: Sequence[float], **options: Any
) -> Rows:
    """For every network and epsilon its rate on its own examples and on the strongest of the others'.

    options: those of `cross`.
    """
    rows: Rows = []
    for epsilon in points:
        crossing = cross(networks, batches, setting.at(epsilon), unrounded=False, **options)
        if not rows:
            rows += [_point(crossing, target, 0.0, "", "") for target in networks]
        for target in networks:
            rates = {source: crossing.right(target, source).mean() for source in crossing.sources if source != target}
            rows.append(_point(crossing, target, epsilon, target, min(rates, key=rates.__getitem__, default=None)))
    return rows


def _point(crossing: Crossing, target: str, epsilon: float, white_box: str, other: str | None) -> dict[str, Any]:
    n = len(crossing.true)
    row: dict[str, Any] = dict(attack=crossing.setting.attack, epsilon=epsilon, target=target, n=n)
    for what, source in (("white_box", white_box), ("transferred", other)):
        rate = None if source is None else float(crossing.right(target, source).mean())
        row[what] = rate
        row[f"{what}_low"], row[f"{what}_high"] = (None, None) if rate is None else metrics.interval(rate, n)
    return row | {"strongest_source": other or ""}


def curves_text(rows: Rows) -> str:
    """Two lines a network: its rate on its own examples, and on the strongest transferred ones."""
    points = sorted({row["epsilon"] for row in rows})
    targets, others = list(dict.fromkeys(row["target"] for row in rows)), "  strongest transferred"
    margin = max(map(len, [*targets, others])) + 2
    whole = points[-1] == 1.0
    lines = [
        f"{rows[0]['attack']}: classification rate in % by epsilon, on own examples and on others'; n = {rows[0]['n']}",
        aligned("epsilon, 1/256" if whole else "epsilon", [f"{e * 256 if whole else e:.3g}" for e in points], margin),
    ]
    for target in targets:
        for name, key in ((target, "white_box"), (others, "transferred")):
            rates = [row[key] for row in rows if row["target"] == target]
            if None not in rates:
                lines.append(aligned(name, map(percent, rates), margin))
    return "\n".join(lines)
