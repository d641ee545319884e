"""The tables of mnist_orderings.py: which orderings hold, and the error rates of every network."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from statistics import mean

from minisatm import metrics

SOURCES = "ABCD"
# The static sources of each network, besides itself; the other structures are hold-outs.
STATIC = {("ensemble", "A"): "ACD", ("ensemble", "B"): "BCD", ("pair", "A"): "AB"}
METHODS = {"A": ("clean", "standard", "ensemble", "pair", "satm"), "B": ("clean", "standard", "ensemble", "satm")}
OWN = ("fgsm", "r_fgsm", "iterative_fgsm")
TRANSFERRED = ("fgsm", "r_fgsm")
EXAMPLES = {  # what the networks learn from; all start at random, but SATM's
    "standard": "its own examples",
    "ensemble": "of one source drawn for each batch: clean A, C, D or itself (for B: clean B, C, D or itself)",
    "satm": "A and B of each other, starting as clean A and B",
    "pair": "ensemble training whose sources are clean A, clean B and itself",
}
LABELS = {"fgsm": "FGSM", "r_fgsm": "R+FGSM", "iterative_fgsm": "I-FGSM"}

Key = tuple[str, str, str, str]  # structure, method, attack, source ("own" or a letter; "" for clean images)
Comparison = tuple[Sequence[float], Sequence[float]]  # error rates: the sum of the first must exceed that of the second


def orderings(errors: dict[Key, float]) -> dict[tuple[str, str], list[Comparison]]:
    """{(ordering, structure): its comparisons}, from the error rates of one seed."""
    found: dict[tuple[str, str], list[Comparison]] = {}
    for k in METHODS:

        def own(method: str, attack: str) -> float:
            return errors[k, method, attack, "own"]  # noqa: B023

        found["(i) standard: transferred FGSM > own FGSM", k] = [
            ([errors[k, "standard", "fgsm", source]], [own("standard", "fgsm")]) for source in SOURCES
        ]
        found["(ii) own R+FGSM > own FGSM", k] = [
            ([own(method, "r_fgsm")], [own(method, "fgsm")]) for method in ("clean", "standard", "ensemble")
        ]
        found["(ii) by more than on the clean network", k] = [
            ([own(method, "r_fgsm"), own("clean", "fgsm")], [own(method, "fgsm"), own("clean", "r_fgsm")])
            for method in ("standard", "ensemble")
        ]
        found["(iii) transferred: standard > ensemble", k] = [
            ([errors[k, "standard", attack, source]], [errors[k, "ensemble", attack, source]])
            for attack in TRANSFERRED
            for source in SOURCES
        ]
    return found


def verdict(comparisons: Sequence[Comparison], n: int) -> str:
    """Whether an ordering holds: "holds 4/4 (3 clear)"; clear: by more than the 95 % interval of the difference."""
    holds = clear = 0
    for larger, smaller in comparisons:
        difference = sum(larger) - sum(smaller)
        spread = 1.96 * math.sqrt(sum(max(p * (1 - p), 1 / n) / n for p in (*larger, *smaller)))
        holds, clear = holds + (difference > 0), clear + (difference > spread)
    word = "holds" if holds == len(comparisons) else "partly" if holds else "does not"
    return f"{word} {holds}/{len(comparisons)} ({clear} clear)"


def table(found: dict[int, dict[Key, float]], n: int) -> Iterator[str]:
    """The lines of all error rates: one column a seed, then the mean."""
    attacked = [("", ""), *((a, "own") for a in OWN), *((a, s) for a in TRANSFERRED for s in SOURCES)]
    for k, methods in METHODS.items():
        for attack, source in attacked:
            what = f"{LABELS[attack]} {'own' if source == 'own' else f'from {source}'}" if attack else "clean images"
            for method in methods:
                rates = [
                    errors[k, method, attack, source]
                    for errors in found.values()
                    if (k, method, attack, source) in errors
                ]
                if rates:  # a clean network is not shown its own examples as transferred ones
                    seen = "*" if source and source in known(method, k) else " "
                    cells = "".join(f"{interval(rate, n):>20}" for rate in rates)
                    yield f"  {k}  {what:<14} {method:<9}{seen}{cells}{100 * mean(rates):8.1f}"


def known(method: str, k: str) -> str:
    """The structures whose clean networks, or what became of them, a network learned from."""
    return STATIC.get((method, k), {"satm": "AB".replace(k, "")}.get(method, ""))


def interval(rate: float, n: int) -> str:
    low, high = (100 * end for end in metrics.interval(rate, n))
    return f"{100 * rate:.1f} [{low:.1f}, {high:.1f}]"


def black_box(errors: dict[Key, float], method: str, sources: str, k: str = "A") -> float:
    """The mean error rate on FGSM and R+FGSM from these sources: the figure of the paper's Table 7, in percent."""
    return 100 * mean(errors[k, method, attack, source] for attack in TRANSFERRED for source in sources)
