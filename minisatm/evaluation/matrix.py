"""The source x target matrix of an evaluation: its rows, its text for a screen, and what is said below it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .. import metrics
from ..results.rows import CLEAN, OTHER, WHITE_BOX, Leak
from ..results.screen import CELL, WIDTH, aligned, percent
from .crossing import Crossing, Names

SHOWN = 3  # remarks of one kind: more are counted
# What the mean size of a perturbation is in each norm: its name, the factor on it, its format.
SIZES = {"linf": ("mean max change, 1/256", 256, ".1f"), "l2": ("mean length", 1, ".3g"),
         "l0": ("mean pixels changed", 1, ".1f")}  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """One network of an evaluation: of a run, or a weights file by itself (without method and run).

    label: its name in the tables, unique in the evaluation, such as "satm/vgg16".
    """

    file: Path
    name: str
    method: str = ""
    run: Path | None = None
    label: str = ""

    @property
    def source(self) -> str:
        """Its name in the random streams: the same in the run's table and in every evaluation."""
        return f"{self.method}/{self.name}" if self.method else self.name

    @property
    def prefix(self) -> str:
        """What tells it from a network of the same name: the name of the run, the path of the file, or ""."""
        return "" if self.label == self.source else self.label.removesuffix(f":{self.source}")


def names(crossing: Crossing, entries: Sequence[Entry]) -> Names:
    """What the row of each pair says of its target, as `Crossing.rows` takes it."""
    by_label, named = {entry.label: entry for entry in entries}, {}
    for target, source in crossing.answers:
        entry, condition = by_label[target], WHITE_BOX if source == target else OTHER if source else CLEAN
        named[target, source] = dict(method=entry.method, network=entry.name, condition=condition, run=entry.prefix)
    return named


def matrix_text(crossing: Crossing, classes: int) -> str:
    """The matrix for a screen: rates, their intervals below them, one-off, and mean perturbations."""
    rates = {pair: metrics.rates(crossing.confusion(*pair, classes)) for pair in crossing.answers}
    names = {target: f"{k} {target}" for k, target in enumerate(crossing.targets, 1)}
    margin = max(map(len, [*names.values(), *(size[0] for size in SIZES.values())])) + 1
    fitting = max(2, (WIDTH - margin) // CELL)
    columns = ["", *crossing.sources]
    what, factor, form = SIZES[crossing.setting.norm]
    lines = [
        f"{crossing.setting}: classification rate in %, below it its 95 % interval; * white-box; "
        f"n = {len(crossing.true)}"
    ]
    for start in range(0, len(columns), fitting):
        block = columns[start : start + fitting]
        heads = [names[source].split()[0] if source else "clean" for source in block]
        lines.append(aligned("target \\ source", heads, margin))
        for target, name in names.items():
            cells = [rates[target, source] for source in block]
            shown = [percent(cell["rate"]) + "*" * (source == target) for source, cell in zip(block, cells)]
            ends = [f"{100 * cell['rate_low']:.0f}-{100 * cell['rate_high']:.0f}" for cell in cells]
            lines += [aligned(name, shown, margin), aligned("", ends, margin)]
        sizes = [f"{factor * crossing.sizes[source].mean():{form}}" if source else "" for source in block]
        lines += [aligned(what, sizes, margin), aligned("one-off, %", heads, margin)]
        lines += [aligned(name, [percent(rates[target, source]["one_off"]) for source in block], margin)
                  for target, name in names.items()]  # fmt: skip
    return "\n".join(lines)


def rounding_remarks(crossing: Crossing) -> list[str]:
    """What rounding to 8-bit pixels changes by more than chance explains: each rate, or the largest of many."""
    changed: dict[str, float] = {}
    for target, source in crossing.unrounded:
        after, before = (crossing.right(target, source, rounded) for rounded in (True, False))
        difference, low, high = metrics.paired_difference(after, before)
        if low > 0 or high < 0:
            rates = f"from {percent(before.mean())} to {percent(after.mean())} %"
            changed[f"{target} on {_examples(source, target == source)} {rates}"] = abs(difference)
    if len(changed) <= SHOWN:
        return [f"rounding to 8-bit pixels changes {text}." for text in changed]
    most = max(changed, key=lambda text: changed[text])
    return [f"rounding to 8-bit pixels changes {len(changed)} rates by more than chance explains, most {most}; "
            "tables/matrix.csv has all of them."]  # fmt: skip


def leak_name(leak: Leak) -> str:
    """Which network, on which examples."""
    target = f"{leak.method}/{leak.network}" if leak.method else leak.network
    target = f"{leak.run}:{target}" if leak.run else target
    return f"{target} on {_examples(leak.source, leak.condition == WHITE_BOX)}"


def _examples(source: str, own: bool) -> str:
    return "its own examples" if own else f"examples of {source}"
