"""Rates against epsilon. At the end of the scale a white-box attack must leave no more than chance."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from .. import metrics
from ..models.network import Network
from ..parallel import ALONE, Team
from .crossing import Crossing, cross
from .matrix import CELL
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
    networks: dict[str, Network],
    batches: Any,
    setting: AttackSetting,
    points: Sequence[float],
    *,
    seed: int,
    limit: int,
    names: Mapping[str, str] | None = None,
    tick: Callable[[int], Any] | None = None,
    team: Team = ALONE,
) -> Rows:
    """For every network and epsilon its rate on its own examples and on the strongest of the others'."""
    rows: Rows = []
    for epsilon in points:
        crossing = cross(networks, batches, setting.at(epsilon), seed=seed, limit=limit, unrounded=False, names=names,
                         tick=tick, team=team)  # fmt: skip
        if not rows:
            rows += [_point(crossing, target, 0.0, "", "") for target in networks]
        for target in networks:
            others = [source for source in crossing.sources if source != target]
            strongest = min(others, key=lambda s: crossing.right(target, s).mean(), default=None)  # noqa: B023
            rows.append(_point(crossing, target, epsilon, target, strongest))
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
    at = {(row["target"], row["epsilon"]): row for row in rows}
    targets = list(dict.fromkeys(row["target"] for row in rows))
    margin = max(map(len, [*targets, "  strongest transferred"])) + 1
    whole = points[-1] == 1.0
    lines = [
        f"{rows[0]['attack']}: classification rate in % by epsilon, on own examples and on others'; n = {rows[0]['n']}",
        _line("epsilon, 1/256" if whole else "epsilon", [f"{e * 256 if whole else e:.3g}" for e in points], margin),
    ]
    for target in targets:
        lines.append(_line(target, [f"{100 * at[target, e]['white_box']:.1f}" for e in points], margin))
        if at[target, points[-1]]["transferred"] is not None:
            cells = [f"{100 * at[target, e]['transferred']:.1f}" for e in points]
            lines.append(_line("  strongest transferred", cells, margin))
    return "\n".join(lines)


def _line(name: str, cells: Sequence[str], margin: int) -> str:
    return name.ljust(margin) + "".join(cell.rjust(CELL) for cell in cells)
