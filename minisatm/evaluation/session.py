"""One evaluation from the matrices to the masking report: what is measured, shown and written."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from .. import metrics
from ..parallel import Team, in_processes
from ..progress import bar
from ..results.figures import figure_epsilons
from ..results.readings import leak_sentences
from ..results.rows import Leak, Row
from ..units import epsilon_text
from . import crossing, curves, export, masking, matrix
from .matrix import Entry
from .setting import AttackSetting

SUBSET = 200  # images for curves and masking, which ask far more about each


@dataclass
class Session:
    """What is measured, on what, and where it is written.

    networks: by the labels of the entries. epsilon: the first run's. limit: how many images. save_table(name, rows)
    writes a table of the folder out. examples: the folder for adversarial examples, if they are wanted.
    """

    networks: dict[str, Any]
    entries: list[Entry]
    dataset: Any
    batches: Any
    settings: list[AttackSetting]
    epsilon: float
    limit: int
    seed: int
    processes: int
    out: Path
    save_table: Callable[[str, list[dict[str, Any]]], None]
    examples: Path | None = None

    def say(self, text: str = "", indent: int = 0) -> None:
        """To the screen, and to evaluation.txt; with an indent, folded to the screen's width."""
        text = textwrap.fill(text, matrix.WIDTH, subsequent_indent=" " * indent) if indent else text
        print(text, flush=True)
        with open(self.out / "evaluation.txt", "a", encoding="utf-8") as file:
            file.write(text + "\n")

    def shared(self, what: str, images: int, work: Callable[..., Any]) -> Any:
        """work(team=..., tick=...) in several processes where that pays, with a progress bar."""
        with bar(images, what, "image") as shown:

            def share(team: Team) -> Any:
                return work(team=team, tick=shown.update if team.leads else None)

            return in_processes(share, self.processes)

    @property
    def subset(self) -> int:
        return min(SUBSET, self.limit)

    @property
    def names(self) -> dict[str, str]:
        """What the networks are called in the random streams, by label."""
        return {entry.label: entry.source for entry in self.entries}

    def introduce(self) -> None:
        classes, true = self.dataset.classes, self._true(self.limit)
        group, rate, _ = metrics.majority_rate(true, len(classes))
        self.say(
            f"images    {len(true):,} of {len(self.batches):,} test images of {self.dataset.name}, "
            f"{self.batches.size}x{self.batches.size}, {len(classes)} classes (always {classes[group]}: "
            f"{100 * rate:.1f} %)"
        )
        numbered = ", ".join(f"{k} {name}" for k, name in enumerate(self.networks, 1))
        self.say(f"networks  {numbered}", indent=10)
        self.say(f"attacks   {'; '.join(map(str, self.settings))}; examples are 8-bit pixels", indent=10)

    def _true(self, limit: int) -> Any:
        return np.concatenate([y for _, y in self.batches.in_order(limit)])

    def matrices(self) -> None:
        """One source x target matrix for each attack setting: tables/matrix.csv, leaks.csv and the screen."""
        classes, rows, leaks = len(self.dataset.classes), list[Row](), list[Leak]()
        for setting in self.settings:
            work = partial(crossing.cross, self.networks, self.batches, setting, seed=self.seed, limit=self.limit,
                           names=self.names)  # fmt: skip
            crossed = self.shared(str(setting), self.limit, partial(work, keep=self.examples is not None))
            above, predicted = crossed.above_clean(), None
            if above:
                again = partial(work, pairs=above, unrounded=False, predicted_labels=True)
                predicted = self.shared("from predicted labels", self.limit, again)
            own_leaks = matrix.leaks(crossed, self.entries, predicted)
            leaks += own_leaks
            rows += [row for row in matrix.rows(crossed, self.entries, classes) if row.source or not rows]
            self.save_table("matrix", [asdict(row) for row in rows])
            if leaks:
                self.save_table("leaks", [asdict(leak) for leak in leaks])
            self.say("\n" + matrix.matrix_text(crossed, classes))
            for line in matrix.rounding_remarks(crossed) + leak_sentences(own_leaks, matrix.leak_name):
                self.say(line, indent=2)
            if self.examples is not None:
                export.export(self.examples, crossed, self.dataset.classes)

    def curves(self) -> None:
        """Rates by epsilon, for each attack that has one."""
        shape = (self.batches.size, self.batches.size, self.dataset.channels)
        for attack in dict.fromkeys(setting.attack for setting in self.settings if setting.has_epsilon):
            settings = [setting for setting in self.settings if setting.attack == attack]
            points = curves.epsilons([setting.epsilon for setting in settings], settings[0], shape)
            work = partial(curves.curve, self.networks, self.batches, settings[0], points, seed=self.seed,
                           limit=self.subset, names=self.names)  # fmt: skip
            rows = self.shared(f"{attack} by epsilon", self.subset * len(points), work)
            self.save_table(f"curve_{attack}", rows)
            self.say("\n" + curves.curves_text(rows))
            chance = metrics.majority_rate(self._true(self.subset), len(self.dataset.classes))[1]
            figure_epsilons(self.out / "figures" / f"curve_{attack}.png", rows, chance)

    def masking(self) -> None:
        """The masking report of every network, at the first epsilon above zero."""
        given = [setting.epsilon for setting in self.settings if setting.has_epsilon and not setting.unit]
        epsilon = next((e for e in (*given, self.epsilon) if e > 0), 16 / 256)
        work = partial(masking.gather, self.networks, self.batches, epsilon=epsilon, seed=self.seed, limit=self.subset,
                       names=self.names)  # fmt: skip
        true, evidence = self.shared("masking", self.subset, work)
        undefended = {(e.run, e.name): e.label for e in self.entries if e.method == "undefended"}
        rows, summaries = [], []
        self.say(
            f"\nIs it masking? Rates at epsilon {epsilon_text(epsilon)}; points: by how much the first of two attacks "
            "is stronger, with 99 % intervals"
        )
        for entry in self.entries:
            reference = undefended.get((entry.run, entry.name))
            other = evidence[reference] if reference and reference != entry.label else None
            own = evidence[entry.label]
            checks = masking.checks(own, true, other)
            rows += [dict(network=entry.label, n=len(true), epsilon=epsilon) | asdict(check) for check in checks]
            if masking.above_chance(own, true):
                self.say("\n" + masking.report_text(entry.label, own, true, checks))
            summaries.append(masking.summary(entry.label, own, true, checks))
        self.save_table("masking", rows)
        self.say()
        for line in summaries:
            self.say(line, indent=2)
