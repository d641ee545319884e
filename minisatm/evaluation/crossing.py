"""Everybody attacks everybody: examples of every source shown to every target, and the tables of that."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .. import metrics
from ..attacks import ATTACKS, craft, rounded
from ..attacks.gradients import length
from ..backend import placed
from ..models.network import Network, predict
from ..parallel import ALONE, Team
from ..streams import stream
from ..units import epsilon_text

Array = Any
Rows = list[dict[str, Any]]
Key = tuple[str, str]  # (target, source); the source of clean images is ""
WIDTH = 110  # columns of a screen


@dataclass(frozen=True)
class Shot:
    """An attack with all that it takes but network and images. epsilon and alpha in pixels of [0, 1], or a length."""

    attack: str
    epsilon: float
    alpha: float | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def __call__(self, network: Any, x: Array, y: Array, rng: np.random.Generator) -> Array:
        return craft(self.attack, network, x, y, epsilon=self.epsilon, alpha=self.alpha, rng=rng, **self.options)

    @property
    def norm(self) -> str:
        return "linf" if self._own("scale") == "max" else str(self._own("norm") or ATTACKS[self.attack].norm)

    @property
    def unit(self) -> str:
        """What epsilon is if not the largest change of a pixel (""): an L2 length, a factor on the gradient."""
        if self._own("scale") == "none":
            return "factor on the gradient"
        return "length" if "l2" in (self._own("norm"), self._own("scale")) else ""

    def _own(self, option: str) -> Any:
        return (ATTACKS[self.attack].defaults | self.options).get(option)

    @property
    def has_epsilon(self) -> bool:
        return ATTACKS[self.attack].takes("epsilon")

    def at(self, epsilon: float) -> Shot:
        """The same attack at another epsilon; alpha and step, where given, grow and shrink with it."""
        factor = epsilon / self.epsilon if self.epsilon else 1.0
        options = {k: v * factor if k == "step" else v for k, v in self.options.items()}
        return Shot(self.attack, epsilon, None if self.alpha is None else self.alpha * factor, options)

    def __str__(self) -> str:
        size = f"{self.epsilon:g} ({self.unit})" if self.unit else epsilon_text(self.epsilon)
        parts = [f"epsilon {size}"] if self.has_epsilon else []
        parts += [] if self.alpha is None else [f"alpha {epsilon_text(self.alpha)}"]
        return ", ".join([self.attack, *parts, *(f"{k} {v}" for k, v in self.options.items())])


@dataclass
class Crossing:
    """What `cross` found, image by image.

    true (n,) classes; answers and unrounded {(target, source): (n,) classes}, to examples rounded to 8-bit pixels and
    to those that the attack returned; sizes {source: (n,)} of the rounded perturbations. images {source: (n, H, W, C)
    uint8}, where kept.
    """

    shot: Shot
    true: Array
    answers: dict[Key, Array]
    unrounded: dict[Key, Array]
    sizes: dict[str, Array]
    images: dict[str, Array]

    @property
    def targets(self) -> list[str]:
        return list(dict.fromkeys(target for target, _ in self.answers))

    @property
    def sources(self) -> list[str]:
        return list(dict.fromkeys(source for _, source in self.answers if source))

    def right(self, target: str, source: str, rounded: bool = True) -> Array:
        """Which images the target still classifies as their own class, (n,) booleans."""
        return (self.answers if rounded else self.unrounded)[target, source] == self.true


def eight_bit(x: Array) -> Array:
    """Rounded pixels of [0, 1] as uint8."""
    return np.rint(255 * x).astype(np.uint8)


def perturbation_size(change: Array, norm: str) -> Array:
    """How large each perturbation is, (N,): the largest change, the length in pixels of [0, 1], or how many pixels."""
    if norm == "linf":
        return abs(change).reshape(len(change), -1).max(axis=1)
    return length(change) if norm == "l2" else (change != 0).any(axis=3).sum(axis=(1, 2))


def cross(
    networks: dict[str, Network],
    batches: Any,
    shot: Shot,
    *,
    seed: int,
    limit: int | None = None,
    sources: Iterable[str] | None = None,
    both: bool = True,
    keep: bool = False,
    predicted_labels: bool = False,
    tick: Callable[[int], Any] | None = None,
    team: Team = ALONE,
) -> Crossing:
    """Attack every image once per source, and ask every target; by the team, each source in some process.

    sources: all networks unless given. both: ask about examples before rounding, too. keep: the images as well.
    predicted_labels: craft from the source's own answers, so that the true class cannot leak into the image.
    """
    sources = ["", *(networks if sources is None else sources)]
    true: list[Array] = []
    found: dict[str, list[tuple[Array, ...]]] = {source: [] for source in sources}
    for b, (x, y) in enumerate(batches.in_order(limit)):

        def attack(source: str) -> tuple[Array, ...]:
            crafted = x  # noqa: B023
            if source:
                labels = predict(networks[source], x) if predicted_labels else y  # noqa: B023
                crafted = shot(networks[source], x, labels, stream(seed, source, shot.attack, b))  # noqa: B023
            seen = rounded(crafted)
            answers = _asked(networks, seen)
            before = _asked(networks, crafted) if both and source else answers
            sizes = placed(perturbation_size(seen - x, shot.norm), "numpy")  # noqa: B023
            return answers, before, sizes, placed(eight_bit(seen), "numpy") if keep else sizes

        for source, result in zip(sources, team.map(attack, sources)):
            found[source].append(result)
        true.append(y)
        if tick is not None:
            tick(len(x))
    whole = {source: [np.concatenate(part) for part in zip(*parts)] for source, parts in found.items()}
    answers, unrounded = (
        {(target, source): whole[source][k][:, t] for source in sources for t, target in enumerate(networks)}
        for k in (0, 1)
    )
    sizes, images = ({source: parts[k] for source, parts in whole.items()} for k in (2, 3))
    return Crossing(shot, np.concatenate(true), answers, unrounded, sizes, images if keep else {})


def _asked(networks: dict[str, Network], x: Array) -> Array:
    """The answers of every network, (N, networks)."""
    return np.stack([predict(network, x) for network in networks.values()], axis=1)


def results(crossing: Crossing, classes: Sequence[str], predicted: Crossing | None = None) -> Rows:
    """One row for every target on clean images and on each source's examples; predicted: see `leaking`."""
    shot, found = crossing.shot, []
    for (target, source), answers in crossing.answers.items():
        matrix = metrics.confusion_matrix(crossing.true, answers, len(classes))
        again = predicted is not None and (target, source) in predicted.answers and source
        row: dict[str, Any] = dict(
            attack=shot.attack if source else "clean", epsilon=shot.epsilon if source and shot.has_epsilon else None,
            target=target, source=source, white_box="yes" if source == target else "", **metrics.rates(matrix),
        )  # fmt: skip
        row["rate_before_rounding"] = float(crossing.right(target, source, rounded=False).mean())
        row["rate_from_predicted_labels"] = float(predicted.right(target, source).mean()) if again else None
        row |= dict(norm=shot.norm if source else "", perturbation=float(crossing.sizes[source].mean()),
                    largest_perturbation=float(crossing.sizes[source].max()))  # fmt: skip
        found.append(row)
    return found


def leaking(crossing: Crossing) -> list[Key]:
    """Where a network does better on adversarial images than on clean ones though the attack read the true class."""
    if not ATTACKS[crossing.shot.attack].reads_label:
        return []
    clean = {target: crossing.right(target, "").mean() for target in crossing.targets}
    return [(t, s) for t, s in crossing.answers if s and crossing.right(t, s).mean() > clean[t]]


def matrix_text(crossing: Crossing, classes: Sequence[str]) -> str:
    """The source x target matrix for a screen: rates, their intervals below them, one-off, and mean perturbations."""
    rows = {(row["target"], row["source"]): row for row in results(crossing, classes)}
    names = {target: f"{k} {target}" for k, target in enumerate(crossing.targets, 1)}
    margin = max(map(len, [*names.values(), *SIZES.values()])) + 1
    fitting = max(2, (WIDTH - margin) // CELL)
    columns = ["", *crossing.sources]
    lines = [
        f"{crossing.shot}: classification rate in %, below it its 95 % interval; * white-box; n = {len(crossing.true)}"
    ]
    for start in range(0, len(columns), fitting):
        block = columns[start : start + fitting]
        heads = [names[source].split()[0] if source else "clean" for source in block]
        lines.append(_line("target \\ source", heads, margin))
        for target, name in names.items():
            cells = [rows[target, source] for source in block]
            lines.append(_line(name, [_percent(c["rate"]) + "*" * bool(c["white_box"]) for c in cells], margin))
            lines.append(_line("", [f"{100 * c['rate_low']:.0f}-{100 * c['rate_high']:.0f}" for c in cells], margin))
        norm = crossing.shot.norm
        sizes = [SIZE_TEXT[norm](crossing.sizes[source].mean()) if source else "" for source in block]
        lines.append(_line(SIZES[norm], sizes, margin))
        lines.append(_line("one-off, %", heads, margin))
        lines += [_line(name, [_percent(rows[target, source]["one_off"]) for source in block], margin)
                  for target, name in names.items()]  # fmt: skip
    return "\n".join(lines)


CELL = 8
SIZES = {"linf": "mean max change, 1/256", "l2": "mean length", "l0": "mean pixels changed"}
SIZE_TEXT: dict[str, Callable[[float], str]] = {
    "linf": lambda v: f"{256 * v:.1f}", "l2": lambda v: f"{v:.3g}", "l0": lambda v: f"{v:.1f}",
}  # fmt: skip


def _line(name: str, cells: Iterable[str], margin: int) -> str:
    """Cells to the right in their columns; a star hangs over, so that the digits stand below one another."""
    return (
        name.ljust(margin) + "".join(c.rjust(CELL) if c.endswith("*") else c.rjust(CELL - 1) + " " for c in cells)
    ).rstrip()


def _percent(rate: float) -> str:
    return f"{100 * rate:.1f}"


def remarks(crossing: Crossing, predicted: Crossing | None = None) -> list[str]:
    """What a reader must know of the matrix: rates that rounding changed, and rates that beat the clean one."""
    lines = []
    for target, source in crossing.answers:
        own, before = (crossing.right(target, source, rounded) for rounded in (True, False))
        _, low, high = metrics.paired_difference(own, before)
        if low > 0 or high < 0:
            lines.append(
                f"rounding to 8-bit pixels changes {target} on {_origin(target, source)} from "
                f"{_percent(before.mean())} to {_percent(own.mean())} %."
            )
    within = []
    for target, source in leaking(crossing):
        own, clean = crossing.right(target, source), crossing.right(target, "")
        text = f"{target} on {_origin(target, source)}: {_percent(own.mean())} % beats clean {_percent(clean.mean())} %"
        if predicted is not None:
            again = predicted.right(target, source).mean()
            text += f"; crafted from predicted labels, which cannot leak the true one, it is {_percent(again)} %"
        sure = metrics.paired_difference(own, clean)[1] > 0
        (lines if sure else within).append(f"WARNING: {text}.")
    if len(within) > SHOWN:
        within = [f"{len(within)} rates lie above the clean one, by no more than chance explains; tables/matrix.csv "
                  "has them crafted from predicted labels, too."]  # fmt: skip
    return lines + within


SHOWN = 3  # of the warnings that chance explains


def _origin(target: str, source: str) -> str:
    return "its own examples" if target == source else f"examples of {source}"
