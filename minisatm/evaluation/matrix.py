"""The source x target matrix of an evaluation: its rows, its text for a screen, and what is said below it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from .. import metrics
from ..results.rows import CLEAN, OTHER, WHITE_BOX, Leak, Row
from .crossing import Crossing, Pair

WIDTH = 110  # columns of a screen
CELL = 8
SHOWN = 3  # remarks of one kind: more are counted
SIZES = {"linf": "mean max change, 1/256", "l2": "mean length", "l0": "mean pixels changed"}
SIZE_TEXT: dict[str, Callable[[float], str]] = {
    "linf": lambda v: f"{256 * v:.1f}", "l2": lambda v: f"{v:.3g}", "l0": lambda v: f"{v:.1f}",
}  # fmt: skip


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


def rows(crossing: Crossing, entries: Sequence[Entry], classes: int) -> list[Row]:
    """One row for every target on clean images and on each source's examples."""
    return [crossing.row(pair, classes, **_names(pair, entries)) for pair in crossing.answers]


def leaks(crossing: Crossing, entries: Sequence[Entry], predicted: Crossing | None) -> list[Leak]:
    """The rates above the clean one. predicted: the same pairs from predicted labels."""
    return [crossing.leak(pair, predicted, **_names(pair, entries)) for pair in crossing.above_clean()]


def _names(pair: Pair, entries: Sequence[Entry]) -> dict[str, str]:
    target, source = pair
    (entry,) = (entry for entry in entries if entry.label == target)
    condition = WHITE_BOX if source == target else OTHER if source else CLEAN
    return dict(method=entry.method, network=entry.name, condition=condition, run=entry.prefix)


def matrix_text(crossing: Crossing, classes: int) -> str:
    """The matrix for a screen: rates, their intervals below them, one-off, and mean perturbations."""
    rates = {pair: metrics.rates(crossing.confusion(*pair, classes)) for pair in crossing.answers}
    names = {target: f"{k} {target}" for k, target in enumerate(crossing.targets, 1)}
    norm = crossing.setting.norm
    margin = max(map(len, [*names.values(), *SIZES.values()])) + 1
    fitting = max(2, (WIDTH - margin) // CELL)
    columns = ["", *crossing.sources]
    lines = [
        f"{crossing.setting}: classification rate in %, below it its 95 % interval; * white-box; "
        f"n = {len(crossing.true)}"
    ]
    for start in range(0, len(columns), fitting):
        block = columns[start : start + fitting]
        heads = [names[source].split()[0] if source else "clean" for source in block]
        lines.append(_aligned("target \\ source", heads, margin))
        for target, name in names.items():
            cells = [rates[target, source] for source in block]
            shown = [percent(cell["rate"]) + "*" * (source == target) for source, cell in zip(block, cells)]
            lines.append(_aligned(name, shown, margin))
            lines.append(_aligned("", [f"{100 * c['rate_low']:.0f}-{100 * c['rate_high']:.0f}" for c in cells], margin))
        sizes = [SIZE_TEXT[norm](crossing.sizes[source].mean()) if source else "" for source in block]
        lines.append(_aligned(SIZES[norm], sizes, margin))
        lines.append(_aligned("one-off, %", heads, margin))
        lines += [_aligned(name, [percent(rates[target, source]["one_off"]) for source in block], margin)
                  for target, name in names.items()]  # fmt: skip
    return "\n".join(lines)


def _aligned(name: str, cells: Iterable[str], margin: int) -> str:
    """A line of right-aligned cells; a star takes the free column at the right, so that digits stand in line."""
    return (
        name.ljust(margin) + "".join(c.rjust(CELL) if c.endswith("*") else c.rjust(CELL - 1) + " " for c in cells)
    ).rstrip()


def percent(rate: float) -> str:
    return f"{100 * rate:.1f}"


def rounding_remarks(crossing: Crossing) -> list[str]:
    """What rounding to 8-bit pixels changes by more than chance explains: each rate, or the largest of many."""
    changed: dict[str, float] = {}
    for target, source in crossing.unrounded:
        after, before = (crossing.right(target, source, rounded) for rounded in (True, False))
        difference, low, high = metrics.paired_difference(after, before)
        if low > 0 or high < 0:
            text = f"{target} on {_origin(target, source)} from {percent(before.mean())} to {percent(after.mean())} %"
            changed[text] = abs(difference)
    if len(changed) <= SHOWN:
        return [f"rounding to 8-bit pixels changes {text}." for text in changed]
    most = max(changed, key=lambda text: changed[text])
    return [f"rounding to 8-bit pixels changes {len(changed)} rates by more than chance explains, most {most}; "
            "tables/matrix.csv has all of them."]  # fmt: skip


def leak_name(leak: Leak) -> str:
    """Which network, on which examples."""
    target = f"{leak.method}/{leak.network}" if leak.method else leak.network
    target = f"{leak.run}:{target}" if leak.run else target
    return f"{target} on {'its own examples' if leak.condition == WHITE_BOX else f'examples of {leak.source}'}"


def _origin(target: str, source: str) -> str:
    return "its own examples" if target == source else f"examples of {source}"
