"""Is it masking? A network that hides its gradients looks robust to attacks that follow them; this is how that shows.

The signs are those of Athalye et al. 2018 (Section 3.1) and Tramer et al. 2018 (Section 4). A rate is the share of
images still classified as their own class, after rounding to 8-bit pixels. Intervals are 99 %: checks are many.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any

import numpy as np

from .. import metrics
from ..attacks import craft, input_gradient, logits_of, rounded
from ..attacks.gradients import length, vanished
from ..backend import array_module, placed
from ..parallel import ALONE, Team
from ..streams import stream
from .crossing import eight_bit

Array = Any
SIGN, NO_SIGN, CANNOT_TELL = "SIGN OF MASKING", "no sign", "cannot tell"
MULTI, STEPS = "iterative_fgsm", 10
QUESTIONS = 100  # to the network, for each image, by the search without gradients
LARGE = (0.5, 1.0)
FELL_TO = 1 / 10  # of the undefended network's gradient norm: less is a sign
SMALL_COSINE = 0.1
Z = 2.576


@dataclass
class Look:
    """What there is to see of one network, image by image, each (n,).

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


def look(
    networks: dict[str, Any], batches: Any, *, epsilon: float, seed: int, limit: int | None = None,
    tick: Callable[[int], Any] | None = None,
    team: Team = ALONE,
) -> tuple[Array, dict[str, Look]]:  # fmt: skip
    """The true classes (n,), and a Look at each network; by the team, each network in some process."""
    true: list[Array] = []
    parts: dict[str, list[dict[str, Any]]] = {name: [] for name in networks}
    for b, (x, y) in enumerate(batches.in_order(limit)):

        def attacked(name: str) -> tuple[dict[str, Any], Array]:
            return _attacked(networks[name], x, y, epsilon, lambda attack: stream(seed, name, "masking", attack, b))  # noqa: B023

        found = dict(zip(networks, team.map(attacked, networks)))

        def transferred(name: str) -> dict[str, Array]:
            others = {s: example for s, (_, example) in found.items() if s != name}  # noqa: B023
            return {f"from {s}": _right(networks[name], _pixels(e, x), y) for s, e in others.items()}  # noqa: B023

        for name, more in zip(networks, team.map(transferred, networks)):
            own = found[name][0]
            parts[name].append({**own, "right": own["right"] | more})
        true.append(y)
        if tick is not None:
            tick(len(x))
    return np.concatenate(true), {name: _joined(own) for name, own in parts.items()}


def _joined(parts: Sequence[dict[str, Any]]) -> Look:
    right = {key: np.concatenate([part["right"][key] for part in parts]) for key in parts[0]["right"]}
    return Look(right, *(np.concatenate([part[key] for part in parts]) for key in parts[0] if key != "right"))


def _attacked(network: Any, x: Array, y: Array, epsilon: float, rng: Any) -> tuple[dict[str, Any], Array]:
    """The fields of a Look for one batch, and the multi-step examples as uint8."""

    def crafted(attack: str, size: float = epsilon, **options: Any) -> Array:
        return craft(attack, network, x, y, epsilon=size, alpha=None, rng=rng(attack), **options)

    single, multi = crafted("fgsm"), crafted(MULTI, steps=STEPS)
    examples = {
        "clean": x, "noise": crafted("random_noise"), "fgsm": single, "r_fgsm": crafted("r_fgsm"), "multi-step": multi,
        "margin": crafted(MULTI, steps=STEPS, loss="margin"), "search": crafted("square", steps=QUESTIONS),
    }  # fmt: skip
    examples |= {f"epsilon {size:g}": crafted(MULTI, size, steps=STEPS) for size in LARGE}
    g, g_attacked = (input_gradient(network, image, y).astype(np.float64) for image in (x, multi))
    ways = [(example - x).astype(np.float64) for example in (single, multi)]
    lengths = length(ways[0]) * length(ways[1])
    along = (ways[0] * ways[1]).reshape(len(x), -1).sum(axis=1)
    numbers = dict(
        zero=vanished(g), norm=length(g), norm_attacked=length(g_attacked),
        cosine=along / np.where(lengths > 0, lengths, np.nan),
    )  # fmt: skip
    right = {attack: _right(network, rounded(example), y) for attack, example in examples.items()}
    return dict(right=right, **{k: placed(v, "numpy") for k, v in numbers.items()}), placed(eight_bit(multi), "numpy")


def _right(network: Any, x: Array, y: Array) -> Array:
    return placed(logits_of(network, x).argmax(axis=1), "numpy") == y


def _pixels(image: Array, like: Array) -> Array:
    """uint8 as the network's own images are: float32 in [0, 1], where they are."""
    return array_module(like).asarray(image).astype(like.dtype) / 255


@dataclass(frozen=True)
class Line:
    """One check of a network: its figures in words, the number that decides with its interval, and the verdict."""

    check: str
    text: str
    verdict: str
    value: float = math.nan
    low: float = math.nan
    high: float = math.nan


def lines(seen: Look, true: Array, reference: Look | None = None) -> list[Line]:
    """Every check of one network. reference: the undefended network of the same name, on the same images."""
    found = [
        _weaker(seen, "fgsm", "multi-step", "single-step / multi-step"),
        _transferred(seen),
        _weaker(seen, "r_fgsm", "fgsm", "R+FGSM / FGSM"),
        _zeros(seen),
        _weaker(seen, "margin", "multi-step", "margin loss / cross-entropy"),
        _gradient_norm(seen, reference),
        _cosine(seen, reference),
        *(_at_large_epsilon(seen, size, _always(true)) for size in LARGE),
        _noise(seen),
        _weaker(seen, "search", "multi-step", "search without gradients"),
    ]
    if not above_chance(seen, true):
        # A network that only guesses has nothing to hide: how its rates lie says nothing.
        found = [replace(line, verdict=CANNOT_TELL) for line in found]
    return found


def above_chance(seen: Look, true: Array) -> bool:
    """Does the network classify clean images better than one that always gives the same answer?"""
    return metrics.interval(seen.rate("clean"), len(true), Z)[0] > _always(true)


def _always(true: Array) -> float:
    return metrics.majority_rate(true, int(true.max()) + 1)[1]


def _weaker(seen: Look, control: str, attack: str, check: str, z: float = Z) -> Line:
    """The control should be no stronger than the attack: by how many points is it?"""
    difference, low, high = metrics.paired_difference(seen.right[attack], seen.right[control], z)
    verdict = SIGN if low > 0 else NO_SIGN if difference <= 0 else CANNOT_TELL
    return Line(check, _compared(seen, control, attack, (difference, low, high)), verdict, difference, low, high)


def _compared(seen: Look, control: str, attack: str, points: tuple[float, float, float]) -> str:
    rates = ", ".join(f"{NAMES.get(name, name)} {_percent(seen.rate(name))}" for name in (control, attack))
    return "{}: {:+.1f} points [{:+.1f}, {:+.1f}]".format(rates, *(100 * p for p in points))


NAMES = {
    "fgsm": "FGSM", "r_fgsm": "R+FGSM", "multi-step": f"{STEPS} steps", "margin": f"{STEPS} steps on the margin",
    "search": f"{QUESTIONS} random squares", "noise": "noise",
}  # fmt: skip


def _transferred(seen: Look) -> Line:
    check, others = "transferred / own", seen.transferred()
    if not others:
        return Line(check, "no other network to take examples from", CANNOT_TELL)
    # The strongest of several was picked for its rate: its interval is as wide as they are many (Bonferroni).
    z = NormalDist().inv_cdf(1 - (1 - NormalDist().cdf(Z)) / len(others))
    return _weaker(seen, others[0], "multi-step", check, z)


def _zeros(seen: Look) -> Line:
    share, n = float(seen.zero.mean()), len(seen.zero)
    text = f"exactly zero for {int(seen.zero.sum())} of {n} images"
    if share:
        text += f" (not robustness: the way out, the margin loss, leaves {_percent(seen.rate('margin'))})"
    low, high = metrics.interval(share, n, Z)
    # One or two may be chance, such as units that are all dead for an image.
    verdict = NO_SIGN if not share else SIGN if low > 0.01 else CANNOT_TELL
    return Line("zero gradients", text, verdict, share, low, high)


def _gradient_norm(seen: Look, reference: Look | None) -> Line:
    clean, attacked = np.median(seen.norm), np.median(seen.norm_attacked)
    text = f"median {clean:.2g} at clean images, {attacked:.2g} at their examples"
    if reference is None:
        return Line("gradient norm", text + "; nothing undefended to compare with", CANNOT_TELL, float(attacked))
    before = np.median(reference.norm), np.median(reference.norm_attacked)
    # A network that is only surer of itself has smaller gradients at clean images, not where it is wrong.
    fell = clean < FELL_TO * before[0] and attacked < FELL_TO * before[1]
    text += f"; undefended {before[0]:.2g} and {before[1]:.2g}"
    return Line("gradient norm", text, SIGN if fell else NO_SIGN, float(attacked))


def _cosine(seen: Look, reference: Look | None) -> Line:
    known = seen.cosine[~np.isnan(seen.cosine)]
    if not len(known):
        return Line("cosine single / multi-step", "no image was changed", CANNOT_TELL)
    mean, half = float(known.mean()), Z * float(known.std()) / math.sqrt(len(known))
    least, text = SMALL_COSINE, f"mean {mean:.2f} [{mean - half:.2f}, {mean + half:.2f}]"
    if reference is not None and not np.isnan(reference.cosine).all():
        undefended = float(np.nanmean(reference.cosine))
        least, text = max(least, undefended / 2), f"{text}; undefended {undefended:.2f}"
    verdict = SIGN if mean + half < least else NO_SIGN if mean - half > least else CANNOT_TELL
    return Line("cosine single / multi-step", text, verdict, mean, mean - half, mean + half)


def _at_large_epsilon(seen: Look, size: float, always: float) -> Line:
    rate = seen.rate(f"epsilon {size:g}")
    low, high = metrics.interval(rate, len(seen.zero), Z)
    verdict = SIGN if low > always else NO_SIGN if rate <= always else CANNOT_TELL
    text = f"{NAMES['multi-step']} {_percent(rate)}, chance (always one class) {_percent(always)}"
    return Line(f"rate at epsilon {size:g}", text, verdict, rate, low, high)


def _noise(seen: Look) -> Line:
    """Here no weaker is not enough: the attack must do clearly better."""
    points = metrics.paired_difference(seen.right["multi-step"], seen.right["noise"], Z)
    verdict = SIGN if points[1] > 0 else NO_SIGN if points[2] < 0 else CANNOT_TELL
    return Line("noise / attack", _compared(seen, "noise", "multi-step", points), verdict, *points)


def _percent(rate: float) -> str:
    return f"{100 * rate:.1f} %"


def report_text(name: str, seen: Look, true: Array, checks: Sequence[Line]) -> str:
    """The checks of one network for a screen, a line each."""
    width = max(len(check.check) for check in checks)
    head = f"{name}: clean {_percent(seen.rate('clean'))}, n = {len(true)}"
    return "\n".join([head, *(f"  {c.check.ljust(width)}  {c.verdict.ljust(15)}  {c.text}" for c in checks)])


def summary(name: str, seen: Look, true: Array, checks: Sequence[Line]) -> str:
    """One line a network: which checks are signs, and what the strongest attack leaves."""
    if not above_chance(seen, true):
        return f"{name}: clean {_percent(seen.rate('clean'))} is no better than one answer for all: nothing to mask."
    signs = [check.check for check in checks if check.verdict == SIGN]
    unsure = sum(check.verdict == CANNOT_TELL for check in checks)
    found = f"{len(signs)} of {len(checks)} checks are signs of masking ({'; '.join(signs)})" if signs else (
        f"no sign of masking in {len(checks) - unsure} of {len(checks)} checks"
    )  # fmt: skip
    strongest = seen.strongest()
    return (
        f"{name}: {found}{f', {unsure} cannot tell' if unsure else ''}. The strongest attack, "
        f"{NAMES.get(strongest, strongest)}, leaves {_percent(seen.rate(strongest))}."
    )
