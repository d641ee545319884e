"""The one loop of evaluation: every source's adversarial examples are shown to every target."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
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
from .setting import AttackSetting, examples

Array = Any
Pair = tuple[str, str]  # (target, source); the source of clean images is ""
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

    def row(self, pair: Pair, classes: int, *, method: str, network: str, condition: str, run: str = "") -> Row:
        """The row of a table for one pair; the names are the target's."""
        target, source = pair
        rates: dict[str, Any] = metrics.rates(self.confusion(target, source, classes))
        if not source:
            return Row(method, network, condition, source, **rates, run=run)
        sizes = self.sizes[source]
        return Row(
            method, network, condition, source, **rates, run=run, attack=self.setting.attack, norm=self.setting.norm,
            epsilon=self.setting.epsilon if self.setting.has_epsilon else None,
            rate_before_rounding=float(self.right(*pair, rounded=False).mean()) if pair in self.unrounded else None,
            perturbation=float(sizes.mean()), largest_perturbation=float(sizes.max()),
        )  # fmt: skip

    def above_clean(self) -> list[Pair]:
        """Where a target is better on adversarial images than on clean ones, though the attack reads the true class."""
        if not ATTACKS[self.setting.attack].reads_label:
            return []
        clean = {target: self.right(target, "").mean() for target in self.targets}
        return [(t, s) for t, s in self.answers if s and self.right(t, s).mean() > clean[t]]

    def leak(
        self, pair: Pair, predicted: Crossing | None, *, method: str, network: str, condition: str, run: str = ""
    ) -> Leak:
        """The row of tables/leaks.csv for one pair of `above_clean`. predicted: crossed with predicted_labels."""
        target, source = pair
        adversarial, clean = self.right(target, source), self.right(target, "")
        difference, low, high = metrics.paired_difference(adversarial, clean)
        return Leak(
            method, network, condition, source, len(self.true), float(adversarial.mean()), float(clean.mean()),
            difference, low, high, None if predicted is None else float(predicted.right(*pair).mean()), run,
        )  # fmt: skip


@dataclass
class _Part:
    """One source's share of a Crossing for one batch; answers (targets, n)."""

    true: Array
    answers: Array
    unrounded: Array
    sizes: Array
    images: Array | None


def cross(
    networks: Mapping[str, Network],
    batches: Any,
    setting: AttackSetting,
    *,
    seed: int,
    pairs: Iterable[Pair] | None = None,
    limit: int | None = None,
    unrounded: bool = True,
    keep: bool = False,
    predicted_labels: bool = False,
    names: Mapping[str, str] | None = None,
    tick: Callable[[int], Any] | None = None,
    team: Team = ALONE,
) -> Crossing:
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

    def show(job: tuple[int, str]) -> _Part:
        b, source = job
        x, y, places = images.batch(b)
        x_adv = pixels = x
        if source:
            labels = predict(networks[source], x) if predicted_labels else y
            name = (names or {}).get(source, source)
            x_adv, pixels = examples(networks[source], x, labels, setting, seed=seed, source=name, places=places)
        answers = before = _ask(networks, targets[source], pixels)
        if source and unrounded and bool((abs(x_adv - pixels) > CHANGED).any()):
            before = _ask(networks, targets[source], x_adv)
        sizes = placed(perturbation_size(pixels - x, setting.norm), "numpy")
        return _Part(y, answers, before, sizes, placed(bytes_of(pixels), "numpy") if keep else None)

    # One job for each source and batch: each process reads on to the batch of its next job, and none waits for another.
    jobs = [(b, source) for b in range(images.count) for source in targets]
    parts: dict[str, list[_Part]] = {source: [] for source in targets}
    for (_, source), part in zip(jobs, team.map(show, jobs)):
        parts[source].append(part)
    images.finish()
    return _joined(setting, targets, parts, unrounded)


def _joined(
    setting: AttackSetting, targets: dict[str, list[str]], parts: dict[str, list[_Part]], unrounded: bool
) -> Crossing:
    found = Crossing(setting, np.concatenate([part.true for part in next(iter(parts.values()))]), {}, {}, {}, {})
    for source, own in parts.items():
        pairs = [(target, source) for target in targets[source]]
        found.answers |= zip(pairs, np.concatenate([part.answers for part in own], axis=1))
        if unrounded:
            found.unrounded |= zip(pairs, np.concatenate([part.unrounded for part in own], axis=1))
        found.sizes[source] = np.concatenate([part.sizes for part in own])
        kept = [part.images for part in own if part.images is not None]
        if kept:
            found.images[source] = np.concatenate(kept)
    return found


class _Pass:
    """One pass over the batches in order, one of them in memory. tick gets the number of images of each batch done."""

    def __init__(self, batches: Any, limit: int | None, tick: Callable[[int], Any] | None) -> None:
        self.places, self.size, self.tick = batches.places(limit), batches.batch, tick
        self.count, self.at = -(-len(self.places) // self.size), -1
        self.images = batches.in_order(limit)

    def batch(self, b: int) -> tuple[Array, Array, Array]:
        """x, y and places of batch b, which may not lie before the one asked for last."""
        while self.at < b:
            self._tick(self.at)
            self.x, self.y = next(self.images)
            self.at += 1
        return self.x, self.y, self.places[b * self.size : (b + 1) * self.size]

    def finish(self) -> None:
        """The jobs of other processes are done as well."""
        for b in range(self.at, self.count):
            self._tick(b)

    def _tick(self, b: int) -> None:
        if self.tick is not None and b >= 0:
            self.tick(len(self.places[b * self.size : (b + 1) * self.size]))


def _ask(networks: Mapping[str, Network], targets: Sequence[str], x: Array) -> Array:
    """The answers of these networks, (targets, N)."""
    return np.stack([predict(networks[target], x) for target in targets])


def bytes_of(pixels: Array) -> Array:
    """8-bit pixels of [0, 1] as uint8."""
    return np.rint(255 * pixels).astype(np.uint8)


def perturbation_size(change: Array, norm: str) -> Array:
    """How large each perturbation is, (N,): the largest change, the length in pixels of [0, 1], or how many pixels."""
    if norm == "linf":
        return abs(change).reshape(len(change), -1).max(axis=1)
    return length(change) if norm == "l2" else (change != 0).any(axis=3).sum(axis=(1, 2))
