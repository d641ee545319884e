"""The main table of a run: every network after every method, on clean images and on each source's examples."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from .. import metrics
from ..attacks import craft
from ..models.network import Network, predict
from ..parallel import ALONE, Team
from ..satm import Rules
from ..streams import stream

Array = Any


Case = tuple[str, str, str, str]  # (target's method, its name, condition, source); the source of clean images is ""


def cases(methods: Iterable[str], names: Sequence[str], holdout: str | None) -> list[Case]:
    """The rows of the main table: every network after every method, on clean images and under each attack.

    A source is "method/name". Black-box from the partner: its old self (undefended) and its new one (after the method).
    """
    rows: list[Case] = []
    for name in names:
        partners = [p for p in names if p != name]
        for method in methods:
            rows += [(method, name, "clean", ""), (method, name, "white-box", f"{method}/{name}")]
            rows += [(method, name, "partner old", f"undefended/{p}") for p in partners]
            rows += [(method, name, "partner new", f"{method}/{p}") for p in partners if method != "undefended"]
            rows += [(method, name, "hold-out", f"undefended/{holdout}")] if holdout else []
    return rows + ([("undefended", holdout, "clean", "")] if holdout else [])


def answers(
    networks: dict[str, Network],
    wanted: Sequence[Case],
    batches: Any,
    rules: Rules,
    *,
    limit: int | None = None,
    predicted_labels: bool = False,
    tick: Any = None,
    team: Team = ALONE,
) -> tuple[Array, dict[Case, Array]]:
    """The true classes (n,) and, for each case, the predicted ones (n,). networks: {"method/name": Network}.

    Images are streamed: each batch is attacked once per source and shown to every target that a case names.
    predicted_labels: craft from the source's own answers, so that the true label cannot leak into the image.
    """
    sources = sorted({source for *_, source in wanted if source})
    targets = sorted({f"{method}/{name}" for method, name, *_ in wanted})
    true, found = [], {case: [] for case in wanted}
    for b, (x, y) in enumerate(batches.in_order(limit)):

        def attack(source: str) -> Array:
            labels = predict(networks[source], x) if predicted_labels else y  # noqa: B023
            rng = stream(rules.seed, source, "test", b)  # noqa: B023
            return craft(rules.attack, networks[source], x, labels, epsilon=rules.epsilon, alpha=rules.alpha, rng=rng)  # noqa: B023

        images = {"": x, **dict(zip(sources, team.map(attack, sources)))}

        def answer(target: str) -> dict[Case, Array]:
            own = [case for case in wanted if f"{case[0]}/{case[1]}" == target]
            return {case: predict(networks[target], images[case[3]]) for case in own}  # noqa: B023

        for result in team.map(answer, targets):
            for case, given in result.items():
                found[case].append(given)
        true.append(y)
        if tick is not None:
            tick(len(x))
    return np.concatenate(true), {case: np.concatenate(given) for case, given in found.items()}


def results(true: Array, found: dict[Case, Array], classes: Sequence[str]) -> list[dict[str, Any]]:
    """One row per case with rate, one-off and their 95 % intervals, then the row of always answering one group."""
    n = len(classes)
    rows = [_row(*case, metrics.confusion_matrix(true, given, n)) for case, given in found.items()]
    group, _, _ = metrics.majority_rate(true, n)
    always = metrics.confusion_matrix(true, np.full_like(true, group), n)
    return [*rows, _row(f"always {classes[group]}", "", "clean", "", always)]


def differences(true: Array, found: dict[Case, Array]) -> list[dict[str, Any]]:
    """SATM minus each other method, image by image: rows with the difference of rates and its 95 % interval."""
    right = {(*case[:3], case[3].rpartition("/")[2]): given == true for case, given in found.items()}
    rows = []
    for other in right:
        method, name, condition, _ = other
        ours = ("satm", *other[1:])
        if method in ("control", "ensemble") and ours in right and condition != "white-box":
            difference, low, high = metrics.paired_difference(right[ours], right[other])
            rows.append(
                dict(method="satm", other=method, condition=condition, network=name, n=len(true),
                     difference=difference, low=low, high=high)
            )  # fmt: skip
    return rows


def _row(method: str, network: str, condition: str, source: str, matrix: Array) -> dict[str, Any]:
    return dict(method=method, network=network, condition=condition, source=source) | metrics.rates(matrix)
