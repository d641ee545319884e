"""What the results say, as text for screen and page alike: captions, cells, comparisons and sentences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import isnan

import numpy as np

from .rows import CLEAN, HOLD_OUT, WHITE_BOX, Leak, Row
from .tables import CONDITIONS, Results, label

MEASURES = (("classification rate", "rate"), ("one-off", "one_off"))
SHOWN = 3  # leaks that chance can explain: so many are named, more are only counted


def caption(results: Results) -> str:
    """What the numbers of the table are: on which images, under which attack."""
    counts = sorted({row.n for row in results.rows if row.n})
    n = "?" if not counts else str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    attacked = any(row.condition == HOLD_OUT for row in results.rows)
    holdout = results.holdout_name or ("a network none was trained with" if attacked else "none in this run")
    attack = 'R+FGSM (the paper\'s "R+Step-LL")' if results.attack == "r_fgsm" else results.attack
    return (
        f"In %, with 95 % intervals; n = {n} test images, epsilon {results.epsilon}, attack {attack}; "
        "partner old / new: examples of the other network before / after it was retrained; "
        f"hold-out: {holdout}. One-off also accepts the neighbouring classes, which means something only where the "
        "classes are ordered (ages)."
    )


def blocks(results: Results) -> Iterator[tuple[str, list[tuple[str, list[Row | None]]]]]:
    """Each network that was measured, with each method and its rates under each of CONDITIONS."""
    for network in results.networks:
        lines = [(label(m), [results.cell(m, network, c) for c in CONDITIONS]) for m in results.methods]
        if any(any(cells) for _, cells in lines):
            yield network, [(method, cells) for method, cells in lines if any(cells)]


def asides(results: Results) -> list[str]:
    """The rates of what is no trained network: always one class, and the hold-out on clean images."""
    named = [(row.method, row) for row in results.baselines]
    clean = results.cell("undefended", results.holdout, CLEAN)
    named += [(f"hold-out {results.holdout_name}, clean", clean)] if clean else []
    return [f"{name}: {cell_text(cell, 'rate')}; one-off {cell_text(cell, 'one_off')}" for name, cell in named]


def cell_text(cell: Row | None, measure: str) -> str:
    """A rate ("rate" or "one_off") in percent with its interval; "-" where nothing was measured."""
    if cell is None or isnan(getattr(cell, measure)):
        return "-"
    numbers = [getattr(cell, measure + end) for end in ("", "_low", "_high")]
    # 100 stands without its decimal, so that no cell is wider than 17 characters.
    rate, low, high = (f"{100 * number:.1f}".replace("100.0", "100") for number in numbers)
    return rate if isnan(sum(numbers)) else f"{rate} [{low}, {high}]"


def comparisons(results: Results) -> list[tuple[str, str, str, str, str]]:
    """(methods, condition, network, points with interval, verdict) of each paired difference."""
    lines = []
    for row in results.differences:
        if not isnan(row.difference + row.low + row.high):
            verdict = "above" if row.low > 0 else "below" if row.high < 0 else "no clear difference"
            points = "{:+.1f} [{:+.1f}, {:+.1f}]".format(*(100 * p for p in (row.difference, row.low, row.high)))
            lines.append((f"{label(row.method)} - {row.other}", row.condition, row.network, points, verdict))
    return lines


def comparisons_title(results: Results) -> str:
    n = f" (n = {results.differences[0].n})" if results.differences[0].n else ""
    return f"SATM against the others: paired, same test images{n}; points with 95 % interval, one training run"


def sentences(results: Results) -> list[str]:
    """Sentences computed from the numbers: white-box beside clean, what rounding costs, and leaks of the label."""
    return [*_white_box(results), *_rounding(results), *(_leaks(results) if results.may_leak else [])]


def _white_box(results: Results) -> list[str]:
    cells = [(n, results.cell("satm", n, WHITE_BOX), results.cell("satm", n, CLEAN)) for n in results.networks]
    measured = [(n, attacked.rate, clean.rate) for n, attacked, clean in cells if attacked and clean]
    if measured and all(attacked < clean / 2 for _, attacked, clean in measured):
        whom = {1: measured[0][0], 2: "both networks"}.get(len(measured), f"all {len(measured)} networks")
        rates = ", ".join(f"{100 * attacked:.1f} %" for _, attacked, _ in measured)
        return [f"White-box attacks still break {whom} after SATM ({rates}): it is not a defence against them."]
    rates = ", ".join(f"{n} {100 * attacked:.1f} % (clean {100 * clean:.1f} %)" for n, attacked, clean in measured)
    return [f"White-box attacks after SATM: {rates}."] if measured else []


def _rounding(results: Results) -> list[str]:
    rows = [row for row in results.rows if row.source and not isnan(row.rate)]
    costs = [100 * (r.rate - r.rate_before_rounding) for r in rows if r.rate_before_rounding is not None]
    if not costs:
        return []
    mean, low, high = (f"{round(cost, 1) + 0.0:+.1f}" for cost in (float(np.mean(costs)), min(costs), max(costs)))
    ball = "" if all(row.epsilon is None for row in rows) else " inside the ball of radius epsilon"
    return [f"Examples are rounded to 8-bit pixels{ball}. This changes the rates under attack by {mean} points on "
            f"average ({low} to {high}; where it is positive, rounding has weakened the attack)."]  # fmt: skip


def _leaks(results: Results) -> list[str]:
    clean = {(row.method, row.network): row.rate for row in results.rows if row.condition == CLEAN}
    above = any(row.source and row.rate > clean.get((row.method, row.network), 1) for row in results.rows)
    if above and not results.leaks:  # an old folder, from before leaks were compared image by image
        return ["Some rates under attack are above the clean rate, and there is no tables/leaks.csv to say whether "
                "chance can explain it: python -m minisatm.evaluate RUN says it."]  # fmt: skip
    return leak_sentences(results.leaks)


def attacked(target: str, source: str, white_box: bool) -> str:
    """Which network, on which examples."""
    return f"{target} on its own examples" if white_box else f"{target} on examples of {source}"


def leak_sentences(leaks: Sequence[Leak]) -> list[str]:
    """A warning for each adversarial rate that is surely above the clean one, then one sentence about the others.

    Surely: the paired 95 % interval of the difference lies above 0. Where it does not, chance can explain the
    difference.
    """
    lines, chance = [], []
    for leak in leaks:
        again = leak.rate_from_predicted_labels
        target = f"{leak.run}:" * bool(leak.run) + f"{leak.method}/" * bool(leak.method) + leak.network
        name = attacked(target, leak.source, leak.condition == WHITE_BOX)
        text = f"{name}: {100 * leak.rate:.1f} % beats clean {100 * leak.clean_rate:.1f} %"
        if again is not None:
            text += f"; crafted from predicted labels, which cannot leak the true one, it is {100 * again:.1f} %"
        if leak.low > 0:
            lines.append(f"WARNING: {text}{'; the true label may have leaked' if again is None else ''}.")
        elif leak.low <= 0:  # not nan
            chance.append(text)
    if len(chance) > SHOWN:
        lines.append(f"{len(chance)} rates beat the clean one, but chance can explain it (tables/leaks.csv has them).")
    elif chance:
        lines.append(f"Chance can explain this: {'. '.join(chance)}.")
    return lines
