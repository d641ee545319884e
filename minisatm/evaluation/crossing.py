"""The one loop of evaluation: every source's adversarial examples are shown to every target."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import metrics
from ..attacks import ATTACKS
from ..attacks.gradients import length
from ..backend import placed
from ..models.network import Network, predict
from ..parallel import ALONE, Team
from ..results.rows import Leak, Row
from .setting import AttackSetting, examples, with_places

Array = Any
Pair = tuple[str, str]  # (target, source); the source of clean images is ""
Names = dict[Pair, dict[str, Any]]  # the method, network, condition and run in the row of each pair
CHANGED = 1e-4 / 255  # less is no rounding, but how exactly float32 knows a pixel


@dataclass
class Crossing:
    """The answers of `cross`, image by image.

    true (n,) classes; answers {(target, source): (n,) classes} on 8-bit examples, and unrounded on those that the
    attack returned; sizes {source: (n,)} of the 8-bit perturbations. images {source: (n, H, W, C) uint8}, where kept.
    """

    setting: AttackSetting
    true: Array
    answers: dict[Pair, Array]
    unrounded: dict[Pair, Array]
    sizes: dict[str, Array]
    images: dict[str, Array]

    @property
    def targets(self) -> list[str]:
        return list(dict.fromkeys(target for target, _ in self.answers))

    @property
    def sources(self) -> list[str]:
        return list(dict.fromkeys(source for _, source in self.answers if source))

    def right(self, target: str, source: str, rounded: bool = True) -> Array:
        """Which images the target classifies correctly, (n,) booleans."""
        return (self.answers if rounded else self.unrounded)[target, source] == self.true

    def confusion(self, target: str, source: str, classes: int) -> Array:
        return metrics.confusion_matrix(self.true, self.answers[target, source], classes)

    def above_clean(self) -> list[Pair]:
        """Where a target is better on adversarial images than on clean ones, though the attack reads the true class."""
        if not ATTACKS[self.setting.attack].reads_label:
            return []
        clean = {target: self.right(target, "").mean() for target in self.targets}
        return [(t, s) for t, s in self.answers if s and self.right(t, s).mean() > clean[t]]

    def rows(self, names: Names, classes: int) -> list[Row]:
        """The row of each pair."""
        return [self._row(pair, columns, classes) for pair, columns in names.items()]

    def _row(self, pair: Pair, names: dict[str, Any], classes: int) -> Row:
        source, measured = pair[1], metrics.rates(self.confusion(*pair, classes))
        if source:
            measured |= dict(
                attack=self.setting.attack, norm=self.setting.norm,
                epsilon=self.setting.epsilon if self.setting.has_epsilon else None,
                rate_before_rounding=float(self.right(*pair, rounded=False).mean()) if pair in self.unrounded else None,
                perturbation=float(self.sizes[source].mean()), largest_perturbation=float(self.sizes[source].max()),
            )  # fmt: skip
        return Row(**names, source=source, **measured)

    def leaks(self, names: Names, predicted: Crossing | None) -> list[Leak]:
        """The row of each pair of `above_clean`. predicted: the same pairs, crossed with predicted_labels."""
        above, rows = self.above_clean(), []
        for pair in (pair for pair in names if pair in above):
            adversarial, clean = self.right(*pair), self.right(pair[0], "")
            difference, low, high = metrics.paired_difference(adversarial, clean)
            rows.append(Leak(
                **names[pair], source=pair[1], n=len(self.true), rate=float(adversarial.mean()),
                clean_rate=float(clean.mean()), difference=difference, low=low, high=high,
                rate_from_predicted_labels=float(predicted.right(*pair).mean()) if predicted else None,
            ))  # fmt: skip
        return rows


def cross(
    networks: Mapping[str, Network], batches: Any, setting: AttackSetting, *, seed: int,
    pairs: Iterable[Pair] | None = None, limit: int | None = None, unrounded: bool = True, keep: bool = False,
    predicted_labels: bool = False, names: Mapping[str, str] | None = None,
    tick: Callable[[int], Any] | None = None, team: Team = ALONE,
) -> Crossing:  # fmt: skip
    """Attack every image once for each source of the pairs, and ask the targets which class they see.

    pairs: all targets on clean images and on all sources' examples, unless given. unrounded: also ask about the
    examples as the attack returned them. keep: the images as well. predicted_labels: craft from the source's own
    answers, so that the true class cannot leak into the image. names: those in the random streams, where they are not
    the keys of networks.
    """
    targets: dict[str, list[str]] = {}
    for target, source in dict.fromkeys(pairs or ((t, s) for s in ("", *networks) for t in networks)):
        targets.setdefault(source, []).append(target)
    images = _Pass(batches, limit, tick)

    def show(job: tuple[int, str]) -> Crossing:
        b, source = job
        x, y, places = images.batch(b)

        def ask(shown: Array) -> dict[Pair, Array]:
            return {(target, source): predict(networks[target], shown) for target in targets[source]}

        x_adv = pixels = x
        if source:
            labels = predict(networks[source], x) if predicted_labels else y
            name = (names or {}).get(source, source)
            x_adv, pixels = examples(networks[source], x, labels, setting, seed=seed, source=name, places=places)
        answers = ask(pixels)
        moved = source and unrounded and bool((abs(x_adv - pixels) > CHANGED).any())
        before = (ask(x_adv) if moved else answers) if unrounded else {}
        sizes = placed(perturbation_size(pixels - x, setting.norm), "numpy")
        kept = {source: placed(bytes_of(pixels), "numpy")} if keep else {}
        return Crossing(setting, y, answers, before, {source: sizes}, kept)

    # One job for each source and batch: each process reads on to the batch of its next job, and none waits for another.
    jobs = [(b, source) for b in range(images.count) for source in targets]
    parts = team.map(show, jobs)
    images.finish()
    true = np.concatenate([part.true for part in parts[:: len(targets)]])
    fields = ([getattr(part, name) for part in parts] for name in ("answers", "unrounded", "sizes", "images"))
    return Crossing(setting, true, *map(joined, fields))


def joined(parts: Iterable[dict[Any, Array]]) -> dict[Any, Array]:
    """The arrays of all parts under each key, one after the other: {key: (n, ...)}."""
    arrays: dict[Any, list[Array]] = {}
    for part in parts:
        for key, array in part.items():
            arrays.setdefault(key, []).append(array)
    return {key: np.concatenate(batches) for key, batches in arrays.items()}


class _Pass:
    """One pass over the batches in order, one of them in memory. tick gets the number of images of each batch done."""

    def __init__(self, batches: Any, limit: int | None, tick: Callable[[int], Any] | None) -> None:
        self.left = len(batches.places(limit))
        self.count = -(-self.left // batches.batch)
        self.batches, self.tick, self.at, self.size = with_places(batches, limit), tick, -1, 0

    def batch(self, b: int) -> tuple[Array, Array, Array]:
        """x, y and places of batch b, which may not lie before the one asked for last."""
        while self.at < b:
            self._done(self.size)
            self.now = next(self.batches)
            self.at, self.size = self.at + 1, len(self.now[1])
        return self.now

    def finish(self) -> None:
        """The jobs of other processes are done as well."""
        self._done(self.left)

    def _done(self, images: int) -> None:
        self.left -= images
        if self.tick is not None and images:
            self.tick(images)


def bytes_of(pixels: Array) -> Array:
    """8-bit pixels of [0, 1] as uint8."""
    return np.rint(255 * pixels).astype(np.uint8)


def perturbation_size(change: Array, norm: str) -> Array:
    """How large each perturbation is, (N,): the largest change, the length in pixels of [0, 1], or how many pixels."""
    if norm == "linf":
        return abs(change).reshape(len(change), -1).max(axis=1)
    return length(change) if norm == "l2" else (change != 0).any(axis=3).sum(axis=(1, 2))
