"""Does a network mask its gradients? Then it looks robust to attacks that follow gradients, and is not.

The checks are those of Athalye et al. 2018 (Section 3.1) and Tramer et al. 2018 (Section 4). A rate is the share of
images that are classified correctly; all examples are 8-bit pixels. Intervals are 99 %, because the checks are many.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any

import numpy as np

from .. import metrics
from ..attacks import input_gradient, logits_of
from ..attacks.gradients import length, vanished
from ..backend import array_module, placed
from ..parallel import ALONE, Team
from .crossing import bytes_of, joined
from .setting import AttackSetting, examples, with_places

Array = Any
SIGN, NO_SIGN, CANNOT_TELL = "SIGN OF MASKING", "no sign", "cannot tell"
MULTI, STEPS = "iterative_fgsm", 10
QUESTIONS = 100  # to the network, for each image, by the search without gradients
LARGE = (0.5, 1.0)
FELL_TO = 1 / 10  # of the undefended network's gradient norm: less is a sign
SMALL_COSINE = 0.1
Z = 2.576  # for 99 %
NAMES = {
    "fgsm": "FGSM", "r_fgsm": "R+FGSM", "multi-step": f"{STEPS} steps", "margin": f"{STEPS} steps on the margin",
    "search": f"{QUESTIONS} random squares",
}  # fmt: skip


@dataclass
class MaskingEvidence:
    """What was measured of one network, image by image, each (n,).

    true: the classes. right {attack: booleans}: "clean", "noise", "fgsm", "r_fgsm", "multi-step", "margin", "search",
    "from <source>", "epsilon 0.5", "epsilon 1". zero: is the gradient of J at the clean image exactly zero? norm and
    norm_attacked: its L2 norm there and at the multi-step example. cosine: between the one-step and the multi-step
    perturbation, NaN where there is none.
    """

    true: Array
    right: dict[str, Array]
    zero: Array
    norm: Array
    norm_attacked: Array
    cosine: Array

    def rate(self, attack: str) -> float:
        return float(self.right[attack].mean())

    def percent(self, attack: str) -> str:
        return f"{100 * self.rate(attack):.1f} %"

    def strongest(self, kind: str = "") -> list[str]:
        """The attacks whose names begin with `kind`, the one that leaves the least first."""
        return sorted((attack for attack in self.right if attack.startswith(kind)), key=self.rate)

    @property
    def chance(self) -> float:
        """The rate of always giving the same answer."""
        return metrics.majority_rate(self.true, int(self.true.max()) + 1)[1]

    @property
    def above_chance(self) -> bool:
        """Does the network classify clean images better than one that always gives the same answer?"""
        return metrics.interval(self.rate("clean"), len(self.true), Z)[0] > self.chance


def gather(
    networks: Mapping[str, Any], batches: Any, *, epsilon: float, seed: int, limit: int | None = None,
    names: Mapping[str, str] | None = None, tick: Callable[[int], Any] | None = None, team: Team = ALONE,
) -> dict[str, MaskingEvidence]:  # fmt: skip
    """The evidence about each network; the team shares out the networks.

    names: those in the random streams, where they are not the keys of networks.
    """
    parts: dict[str, list[MaskingEvidence]] = {name: [] for name in networks}
    for x, y, places in with_places(batches, limit):

        def attacked(name: str) -> tuple[MaskingEvidence, Array]:
            source = (names or {}).get(name, name)
            return _attacked(networks[name], x, y, epsilon, seed=seed, source=source, places=places)  # noqa: B023

        measured = dict(zip(networks, team.map(attacked, networks)))

        def transferred(name: str) -> dict[str, Array]:
            others = {s: pixels for s, (_, pixels) in measured.items() if s != name}  # noqa: B023
            return {f"from {s}": _right(networks[name], _scaled(pixels, x), y) for s, pixels in others.items()}  # noqa: B023

        for name, more in zip(networks, team.map(transferred, networks)):
            parts[name].append(replace(measured[name][0], right=measured[name][0].right | more))
        if tick is not None:
            tick(len(x))
    return {name: _joined(own) for name, own in parts.items()}


def _joined(parts: Sequence[MaskingEvidence]) -> MaskingEvidence:
    arrays = joined({field: array for field, array in vars(part).items() if field != "right"} for part in parts)
    return MaskingEvidence(right=joined(part.right for part in parts), **arrays)


def _attacked(network: Any, x: Array, y: Array, epsilon: float, **keys: Any) -> tuple[MaskingEvidence, Array]:
    """The evidence of one batch, and the multi-step examples as uint8."""

    def crafted(attack: str, size: float = epsilon, **options: Any) -> Array:
        return examples(network, x, y, AttackSetting(attack, size, None, options), **keys)[1]

    single, multi = crafted("fgsm"), crafted(MULTI, steps=STEPS)
    shown = {
        "clean": x, "noise": crafted("random_noise"), "fgsm": single, "r_fgsm": crafted("r_fgsm"), "multi-step": multi,
        "margin": crafted(MULTI, steps=STEPS, loss="margin"), "search": crafted("square", steps=QUESTIONS),
    }  # fmt: skip
    shown |= {f"epsilon {size:g}": crafted(MULTI, size, steps=STEPS) for size in LARGE}
    right = {attack: _right(network, example, y) for attack, example in shown.items()}
    g, g_attacked = (input_gradient(network, image, y).astype(np.float64) for image in (x, multi))
    ways = [(example - x).astype(np.float64) for example in (single, multi)]
    lengths = length(ways[0]) * length(ways[1])
    cosine = (ways[0] * ways[1]).reshape(len(x), -1).sum(axis=1) / np.where(lengths > 0, lengths, np.nan)
    arrays = [placed(array, "numpy") for array in (vanished(g), length(g), length(g_attacked), cosine, bytes_of(multi))]
    return MaskingEvidence(y, right, *arrays[:4]), arrays[4]


def _right(network: Any, x: Array, y: Array) -> Array:
    return placed(logits_of(network, x).argmax(axis=1), "numpy") == y


def _scaled(pixels: Array, like: Array) -> Array:
    """uint8 pixels as the network's own images are: float32 in [0, 1], on the same device."""
    return array_module(like).asarray(pixels).astype(like.dtype) / 255


@dataclass(frozen=True)
class MaskingCheck:
    """One check of a network: its figures in words, the number that decides with its interval, and the verdict."""

    check: str
    text: str
    verdict: str
    value: float = math.nan
    low: float = math.nan
    high: float = math.nan


def checks(evidence: MaskingEvidence, reference: MaskingEvidence | None = None) -> list[MaskingCheck]:
    """Every check of one network. reference: the undefended network of the same name, on the same images."""
    measured = [
        _stronger("single-step / multi-step", evidence, "fgsm", "multi-step"),
        _transferred("transferred / own", evidence),
        _stronger("R+FGSM / FGSM", evidence, "r_fgsm", "fgsm"),
        _zeros("zero gradients", evidence),
        _stronger("margin loss / cross-entropy", evidence, "margin", "multi-step"),
        _gradient_norm("gradient norm", evidence, reference),
        _cosine("cosine single / multi-step", evidence, reference),
        *(_at_large_epsilon(f"rate at epsilon {size:g}", evidence, f"epsilon {size:g}") for size in LARGE),
        _stronger("noise / attack", evidence, "noise", "multi-step", clearly=True),
        _stronger("search without gradients", evidence, "search", "multi-step"),
    ]
    # Where a network only guesses, the differences between attacks mean nothing.
    return measured if evidence.above_chance else [replace(check, verdict=CANNOT_TELL) for check in measured]


def _verdict(bad: bool, good: bool) -> str:
    return SIGN if bad else NO_SIGN if good else CANNOT_TELL


def _stronger(
    check: str, evidence: MaskingEvidence, control: str, attack: str, z: float = Z, clearly: bool = False
) -> MaskingCheck:
    """By how many points the control is stronger than the attack. clearly: a tie is too little for the attack."""
    points = metrics.paired_difference(evidence.right[attack], evidence.right[control], z)
    difference, low, high = points
    rates = ", ".join(f"{NAMES.get(name, name)} {evidence.percent(name)}" for name in (control, attack))
    text = "{}: {:+.1f} points [{:+.1f}, {:+.1f}]".format(rates, *(100 * p for p in points))
    return MaskingCheck(check, text, _verdict(low > 0, high < 0 if clearly else difference <= 0), *points)


def _transferred(check: str, evidence: MaskingEvidence) -> MaskingCheck:
    others = evidence.strongest("from ")
    if not others:
        return MaskingCheck(check, "no other network to take examples from", CANNOT_TELL)
    # The strongest of several sources is in part the luckiest: its interval must be wider (Bonferroni's correction).
    z = NormalDist().inv_cdf(1 - (1 - NormalDist().cdf(Z)) / len(others))
    return _stronger(check, evidence, others[0], "multi-step", z)


def _zeros(check: str, evidence: MaskingEvidence) -> MaskingCheck:
    count, n = int(evidence.zero.sum()), len(evidence.zero)
    text = f"exactly zero for {count} of {n} images"
    if count:
        text += f" (no robustness: the margin loss has a gradient, and leaves {evidence.percent('margin')})"
    low, high = metrics.interval(count / n, n, Z)
    # One or two may be chance: images for which all units of a layer are off.
    return MaskingCheck(check, text, _verdict(low > 0.01, not count), count / n, low, high)


def _gradient_norm(check: str, evidence: MaskingEvidence, reference: MaskingEvidence | None) -> MaskingCheck:
    clean, attacked = float(np.median(evidence.norm)), float(np.median(evidence.norm_attacked))
    text = f"median {clean:.2g} at clean images, {attacked:.2g} at their examples"
    if reference is None:
        return MaskingCheck(check, f"{text}; no undefended network to compare with", CANNOT_TELL, attacked)
    before = np.median(reference.norm), np.median(reference.norm_attacked)
    # A network that is only more confident has small gradients at clean images, but not where it is wrong.
    fell = clean < FELL_TO * before[0] and attacked < FELL_TO * before[1]
    return MaskingCheck(
        check, f"{text}; undefended {before[0]:.2g} and {before[1]:.2g}", _verdict(fell, not fell), attacked
    )


def _cosine(check: str, evidence: MaskingEvidence, reference: MaskingEvidence | None) -> MaskingCheck:
    known = evidence.cosine[~np.isnan(evidence.cosine)]
    if not len(known):
        return MaskingCheck(check, "no image was changed", CANNOT_TELL)
    mean, half = float(known.mean()), Z * float(known.std()) / math.sqrt(len(known))
    low, high, least = mean - half, mean + half, SMALL_COSINE
    text = f"mean {mean:.2f} [{low:.2f}, {high:.2f}]"
    if reference is not None and not np.isnan(reference.cosine).all():
        undefended = float(np.nanmean(reference.cosine))
        least, text = max(least, undefended / 2), f"{text}; undefended {undefended:.2f}"
    return MaskingCheck(check, text, _verdict(high < least, low > least), mean, low, high)


def _at_large_epsilon(check: str, evidence: MaskingEvidence, attack: str) -> MaskingCheck:
    rate, chance = evidence.rate(attack), evidence.chance
    low, high = metrics.interval(rate, len(evidence.true), Z)
    text = f"{NAMES['multi-step']} {evidence.percent(attack)}, chance (always one class) {100 * chance:.1f} %"
    return MaskingCheck(check, text, _verdict(low > chance, rate <= chance), rate, low, high)


def report_text(name: str, evidence: MaskingEvidence, checks: Sequence[MaskingCheck]) -> str:
    """The checks of one network for a screen, a line each."""
    width = max(len(check.check) for check in checks)
    head = f"{name}: clean {evidence.percent('clean')}, n = {len(evidence.true)}"
    return "\n".join([head, *(f"  {c.check.ljust(width)}  {c.verdict.ljust(15)}  {c.text}" for c in checks)])


def summary(name: str, evidence: MaskingEvidence, checks: Sequence[MaskingCheck]) -> str:
    """One line a network: which checks are signs, and what the strongest attack leaves."""
    if not evidence.above_chance:
        clean = evidence.percent("clean")
        return f"{name}: clean {clean} is no better than always answering one class: nothing to mask."
    signs = [check.check for check in checks if check.verdict == SIGN]
    unsure = sum(check.verdict == CANNOT_TELL for check in checks)
    signs_text = f"no sign of masking in {len(checks) - unsure} of {len(checks)} checks"
    if signs:
        signs_text = f"{len(signs)} of {len(checks)} checks are signs of masking ({'; '.join(signs)})"
    strongest = next(attack for attack in evidence.strongest() if not attack.startswith("epsilon "))
    return (
        f"{name}: {signs_text}{f', {unsure} cannot tell' if unsure else ''}. The strongest attack, "
        f"{NAMES.get(strongest, strongest)}, leaves {evidence.percent(strongest)}."
    )
