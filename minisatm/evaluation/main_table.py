"""The main table of a run: every network after every method, on clean images and on each source's examples."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from .. import metrics
from ..results.rows import CLEAN, HOLD_OUT, PARTNER_NEW, PARTNER_OLD, WHITE_BOX, Difference, Leak, Row
from .crossing import Crossing, Names, Pair

Case = tuple[str, str, str, str]  # (target's method, its name, condition, source); the source of clean images is ""


def cases(methods: Iterable[str], names: Sequence[str], holdout: str | None) -> list[Case]:
    """The rows of the main table: every network after every method, on clean images and under each attack.

    A source is "method/name". Black-box from the partner: its old self (undefended) and its new one (after the method).
    """
    rows: list[Case] = []
    for name in names:
        partners = [p for p in names if p != name]
        for method in methods:
            rows += [(method, name, CLEAN, ""), (method, name, WHITE_BOX, f"{method}/{name}")]
            rows += [(method, name, PARTNER_OLD, f"undefended/{p}") for p in partners]
            rows += [(method, name, PARTNER_NEW, f"{method}/{p}") for p in partners if method != "undefended"]
            rows += [(method, name, HOLD_OUT, f"undefended/{holdout}")] if holdout else []
    return rows + ([("undefended", holdout, CLEAN, "")] if holdout else [])


def pair_of(case: Case) -> Pair:
    """The target and the source of a case, as `crossing.cross` takes them."""
    method, name, _, source = case
    return f"{method}/{name}", source


def results(crossing: Crossing, wanted: Iterable[Case], classes: Sequence[str]) -> list[Row]:
    """One row per case with rate, one-off and their 95 % intervals, then the row of always answering one group."""
    n, true = len(classes), crossing.true
    group = metrics.majority_rate(true, n)[0]
    always = metrics.rates(metrics.confusion_matrix(true, np.full_like(true, group), n))
    return [*crossing.rows(_names(wanted), n), Row(f"always {classes[group]}", "", CLEAN, "", **always)]


def differences(crossing: Crossing, wanted: Iterable[Case]) -> list[Difference]:
    """SATM minus each other method, image by image: rows with the difference of rates and its 95 % interval."""
    right = {(*case[:3], case[3].rpartition("/")[2]): crossing.right(*pair_of(case)) for case in wanted}
    rows = []
    for other in right:
        method, name, condition, _ = other
        ours = ("satm", *other[1:])
        if method in ("control", "ensemble") and ours in right and condition != WHITE_BOX:
            difference = metrics.paired_difference(right[ours], right[other])
            rows.append(Difference("satm", method, condition, name, len(crossing.true), *difference))
    return rows


def leaks(crossing: Crossing, wanted: Iterable[Case], predicted: Crossing | None) -> list[Leak]:
    """The cases with a rate above the clean one. predicted: the same pairs, crafted from predicted labels."""
    return crossing.leaks(_names(wanted), predicted)


def _names(wanted: Iterable[Case]) -> Names:
    return {pair_of(case): dict(method=case[0], network=case[1], condition=case[2]) for case in wanted}
