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
from .crossing import bytes_of
from .setting import AttackSetting, examples

Array = Any
SIGN, NO_SIGN, CANNOT_TELL = "SIGN OF MASKING", "no sign", "cannot tell"
MULTI, STEPS = "iterative_fgsm", 10
QUESTIONS = 100  # to the network, for each image, by the search without gradients
LARGE = (0.5, 1.0)
FELL_TO = 1 / 10  # of the undefended network's gradient norm: less is a sign
SMALL_COSINE = 0.1
Z = 2.576  # for 99 %


@dataclass
class MaskingEvidence:
    """What was measured of one network, image by image, each (n,).

    right {attack: booleans}: "clean", "noise", "fgsm", "r_fgsm", "multi-step", "margin", "search", "from <source>",
    "epsilon 0.5", "epsilon 1". zero: is the gradient of J at the clean image exactly zero? norm and norm_attacked: its
    L2 norm there and at the multi-step example. cosine: between the one-step and the multi-step perturbation, NaN where
    there is none.
    """

    right: dict[str, Array]
    zero: Array
    norm: Array
    norm_attacked: Array
    cosine: Array

    def rate(self, attack: str) -> float:
        return float(self.right[attack].mean())

    def transferred(self) -> list[str]:
        """The attacks by other networks' multi-step examples, the strongest first."""
        return sorted((key for key in self.right if key.startswith("from ")), key=self.rate)

    def strongest(self) -> str:
        """The attack that leaves the least."""
        return min((key for key in self.right if not key.startswith("epsilon ")), key=self.rate)


def gather(
    networks: Mapping[str, Any], batches: Any, *, epsilon: float, seed: int, limit: int | None = None,
    names: Mapping[str, str] | None = None, tick: Callable[[int], Any] | None = None, team: Team = ALONE,
) -> tuple[Array, dict[str, MaskingEvidence]]:  # fmt: skip
    """The true classes (n,), and the evidence about each network; the team shares out the networks.

    names: those in the random streams, where they are not the keys of networks.
    """
    true: list[Array] = []
    parts: dict[str, list[dict[str, Any]]] = {name: [] for name in networks}
    places, start = batches.places(limit), 0
    for x, y in batches.in_order(limit):
        here = places[start : start + len(x)]
        start += len(x)

        def attacked(name: str) -> tuple[dict[str, Any], Array]:
            source = (names or {}).get(name, name)
            return _attacked(networks[name], x, y, epsilon, seed=seed, source=source, places=here)  # noqa: B023

        measured = dict(zip(networks, team.map(attacked, networks)))

        def transferred(name: str) -> dict[str, Array]:
            others = {s: pixels for s, (_, pixels) in measured.items() if s != name}  # noqa: B023
            return {f"from {s}": _right(networks[name], _scaled(pixels, x), y) for s, pixels in others.items()}  # noqa: B023

        for name, more in zip(networks, team.map(transferred, networks)):
            fields = measured[name][0]
            parts[name].append({**fields, "right": fields["right"] | more})
        true.append(y)
        if tick is not None:
            tick(len(x))
    return np.concatenate(true), {name: _joined(own) for name, own in parts.items()}


def _joined(parts: Sequence[dict[str, Any]]) -> MaskingEvidence:
    right = {key: np.concatenate([part["right"][key] for part in parts]) for key in parts[0]["right"]}
    return MaskingEvidence(
        right, *(np.concatenate([part[key] for part in parts]) for key in parts[0] if key != "right")
    )


def _attacked(network: Any, x: Array, y: Array, epsilon: float, **keys: Any) -> tuple[dict[str, Any], Array]:
    """The fields of the evidence for one batch, and the multi-step examples as uint8."""

    def crafted(attack: str, size: float = epsilon, **options: Any) -> Array:
        return examples(network, x, y, AttackSetting(attack, size, None, options), **keys)[1]

    single, multi = crafted("fgsm"), crafted(MULTI, steps=STEPS)
    shown = {
        "clean": x, "noise": crafted("random_noise"), "fgsm": single, "r_fgsm": crafted("r_fgsm"), "multi-step": multi,
        "margin": crafted(MULTI, steps=STEPS, loss="margin"), "search": crafted("square", steps=QUESTIONS),
    }  # fmt: skip
    shown |= {f"epsilon {size:g}": crafted(MULTI, size, steps=STEPS) for size in LARGE}
    g, g_attacked = (input_gradient(network, image, y).astype(np.float64) for image in (x, multi))
    ways = [(example - x).astype(np.float64) for example in (single, multi)]
    lengths = length(ways[0]) * length(ways[1])
    along = (ways[0] * ways[1]).reshape(len(x), -1).sum(axis=1)
    numbers = dict(
        zero=vanished(g), norm=length(g), norm_attacked=length(g_attacked),
        cosine=along / np.where(lengths > 0, lengths, np.nan),
    )  # fmt: skip
    right = {attack: _right(network, example, y) for attack, example in shown.items()}
    return dict(right=right, **{k: placed(v, "numpy") for k, v in numbers.items()}), placed(bytes_of(multi), "numpy")


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


def checks(evidence: MaskingEvidence, true: Array, reference: MaskingEvidence | None = None) -> list[MaskingCheck]:
    """Every check of one network. reference: the undefended network of the same name, on the same images."""
    measured = [
        _weaker(evidence, "fgsm", "multi-step", "single-step / multi-step"),
        _transferred(evidence),
        _weaker(evidence, "r_fgsm", "fgsm", "R+FGSM / FGSM"),
        _zeros(evidence),
        _weaker(evidence, "margin", "multi-step", "margin loss / cross-entropy"),
        _gradient_norm(evidence, reference),
        _cosine(evidence, reference),
        *(_at_large_epsilon(evidence, size, _always(true)) for size in LARGE),
        _noise(evidence),
        _weaker(evidence, "search", "multi-step", "search without gradients"),
    ]
    if not above_chance(evidence, true):
        # Where a network only guesses, the differences between attacks mean nothing.
        measured = [replace(check, verdict=CANNOT_TELL) for check in measured]
    return measured


def above_chance(evidence: MaskingEvidence, true: Array) -> bool:
    """Does the network classify clean images better than one that always gives the same answer?"""
    return bool(metrics.interval(evidence.rate("clean"), len(true), Z)[0] > _always(true))


def _always(true: Array) -> float:
    return float(metrics.majority_rate(true, int(true.max()) + 1)[1])


def _weaker(evidence: MaskingEvidence, control: str, attack: str, check: str, z: float = Z) -> MaskingCheck:
    """By how many points the control is stronger than the attack; it should not be."""
    difference, low, high = metrics.paired_difference(evidence.right[attack], evidence.right[control], z)
    verdict = SIGN if low > 0 else NO_SIGN if difference <= 0 else CANNOT_TELL
    text = _compared(evidence, control, attack, (difference, low, high))
    return MaskingCheck(check, text, verdict, difference, low, high)


def _compared(evidence: MaskingEvidence, control: str, attack: str, points: tuple[float, float, float]) -> str:
    rates = ", ".join(f"{NAMES.get(name, name)} {_percent(evidence.rate(name))}" for name in (control, attack))
    return "{}: {:+.1f} points [{:+.1f}, {:+.1f}]".format(rates, *(100 * p for p in points))


NAMES = {
    "fgsm": "FGSM", "r_fgsm": "R+FGSM", "multi-step": f"{STEPS} steps", "margin": f"{STEPS} steps on the margin",
    "search": f"{QUESTIONS} random squares", "noise": "noise",
}  # fmt: skip


def _transferred(evidence: MaskingEvidence) -> MaskingCheck:
    check, others = "transferred / own", evidence.transferred()
    if not others:
        return MaskingCheck(check, "no other network to take examples from", CANNOT_TELL)
    # The strongest of several sources is in part the luckiest: its interval must be wider (Bonferroni's correction).
    z = NormalDist().inv_cdf(1 - (1 - NormalDist().cdf(Z)) / len(others))
    return _weaker(evidence, others[0], "multi-step", check, z)


def _zeros(evidence: MaskingEvidence) -> MaskingCheck:
    share, n = float(evidence.zero.mean()), len(evidence.zero)
    text = f"exactly zero for {int(evidence.zero.sum())} of {n} images"
    if share:
        text += f" (no robustness: the margin loss has a gradient, and leaves {_percent(evidence.rate('margin'))})"
    low, high = metrics.interval(share, n, Z)
    # One or two may be chance: images for which all units of a layer are off.
    verdict = NO_SIGN if not share else SIGN if low > 0.01 else CANNOT_TELL
    return MaskingCheck("zero gradients", text, verdict, share, low, high)


def _gradient_norm(evidence: MaskingEvidence, reference: MaskingEvidence | None) -> MaskingCheck:
    clean, attacked = np.median(evidence.norm), np.median(evidence.norm_attacked)
    text = f"median {clean:.2g} at clean images, {attacked:.2g} at their examples"
    if reference is None:
        text += "; no undefended network to compare with"
        return MaskingCheck("gradient norm", text, CANNOT_TELL, float(attacked))
    before = np.median(reference.norm), np.median(reference.norm_attacked)
    # A network that is only more confident has small gradients at clean images, but not where it is wrong.
    fell = clean < FELL_TO * before[0] and attacked < FELL_TO * before[1]
    text += f"; undefended {before[0]:.2g} and {before[1]:.2g}"
    return MaskingCheck("gradient norm", text, SIGN if fell else NO_SIGN, float(attacked))


def _cosine(evidence: MaskingEvidence, reference: MaskingEvidence | None) -> MaskingCheck:
    known = evidence.cosine[~np.isnan(evidence.cosine)]
    if not len(known):
        return MaskingCheck("cosine single / multi-step", "no image was changed", CANNOT_TELL)
    mean, half = float(known.mean()), Z * float(known.std()) / math.sqrt(len(known))
    least, text = SMALL_COSINE, f"mean {mean:.2f} [{mean - half:.2f}, {mean + half:.2f}]"
    if reference is not None and not np.isnan(reference.cosine).all():
        undefended = float(np.nanmean(reference.cosine))
        least, text = max(least, undefended / 2), f"{text}; undefended {undefended:.2f}"
    verdict = SIGN if mean + half < least else NO_SIGN if mean - half > least else CANNOT_TELL
    return MaskingCheck("cosine single / multi-step", text, verdict, mean, mean - half, mean + half)


def _at_large_epsilon(evidence: MaskingEvidence, size: float, always: float) -> MaskingCheck:
    rate = evidence.rate(f"epsilon {size:g}")
    low, high = metrics.interval(rate, len(evidence.zero), Z)
    verdict = SIGN if low > always else NO_SIGN if rate <= always else CANNOT_TELL
    text = f"{NAMES['multi-step']} {_percent(rate)}, chance (always one class) {_percent(always)}"
    return MaskingCheck(f"rate at epsilon {size:g}", text, verdict, rate, low, high)


def _noise(evidence: MaskingEvidence) -> MaskingCheck:
    """Here a tie is not enough: the attack must be clearly stronger than noise."""
    points = metrics.paired_difference(evidence.right["multi-step"], evidence.right["noise"], Z)
    verdict = SIGN if points[1] > 0 else NO_SIGN if points[2] < 0 else CANNOT_TELL
    return MaskingCheck("noise / attack", _compared(evidence, "noise", "multi-step", points), verdict, *points)


def _percent(rate: float) -> str:
    return f"{100 * rate:.1f} %"


def report_text(name: str, evidence: MaskingEvidence, true: Array, checks: Sequence[MaskingCheck]) -> str:
    """The checks of one network for a screen, a line each."""
    width = max(len(check.check) for check in checks)
    head = f"{name}: clean {_percent(evidence.rate('clean'))}, n = {len(true)}"
    return "\n".join([head, *(f"  {c.check.ljust(width)}  {c.verdict.ljust(15)}  {c.text}" for c in checks)])


def summary(name: str, evidence: MaskingEvidence, true: Array, checks: Sequence[MaskingCheck]) -> str:
    """One line a network: which checks are signs, and what the strongest attack leaves."""
    if not above_chance(evidence, true):
        clean = _percent(evidence.rate("clean"))
        return f"{name}: clean {clean} is no better than always answering one class: nothing to mask."
    signs = [check.check for check in checks if check.verdict == SIGN]
    unsure = sum(check.verdict == CANNOT_TELL for check in checks)
    found = f"{len(signs)} of {len(checks)} checks are signs of masking ({'; '.join(signs)})" if signs else (
        f"no sign of masking in {len(checks) - unsure} of {len(checks)} checks"
    )  # fmt: skip
    strongest = evidence.strongest()
    return (
        f"{name}: {found}{f', {unsure} cannot tell' if unsure else ''}. The strongest attack, "
        f"{NAMES.get(strongest, strongest)}, leaves {_percent(evidence.rate(strongest))}."
    )
