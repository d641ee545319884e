"""One evaluation from the matrices to the masking report: what is measured, shown and written."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from .. import metrics
from ..parallel import Team, in_processes
from ..progress import bar
from ..results.figures import figure_epsilons
from ..results.readings import leak_sentences
from ..results.rows import Leak, Row
from ..results.screen import WIDTH, percent
from ..results.tables import write_rows
from ..units import epsilon_text
from . import crossing, curves, export, masking, matrix
from .matrix import Entry
from .setting import AttackSetting

SUBSET = 200  # images for curves and masking, which ask far more about each


@dataclass
class Session:
    """What is measured, on what, and where it is written.

    networks: by the labels of the entries. epsilon: the first run's. limit: how many images. examples: the folder for
    adversarial examples, if they are wanted. notes: lines about the images.
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
    examples: Path | None = None
    notes: Sequence[str] = ()

    def say(self, text: str = "", indent: int = 0) -> None:
        """To the screen, and to evaluation.txt; with an indent, folded to the screen's width."""
        if indent:
            text = textwrap.fill(text, WIDTH, subsequent_indent=" " * indent, break_on_hyphens=False)
        print(text, flush=True)
        with open(self.out / "evaluation.txt", "a", encoding="utf-8") as file:
            file.write(text + "\n")

    def shared(self, what: str, images: int, work: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """work(networks, batches, ...) in several processes where that pays, with a progress bar."""
        names = {entry.label: entry.source for entry in self.entries}  # in the random streams
        work = partial(work, self.networks, self.batches, *arguments, seed=self.seed, names=names, **options)
        with bar(images, what, "image") as shown:

            def share(team: Team) -> Any:
                return work(team=team, tick=shown.update if team.leads else None)

            return in_processes(share, self.processes)

    @property
    def subset(self) -> int:
        return min(SUBSET, self.limit)

    def always(self, images: int) -> tuple[str, float]:
        """The commonest class among so many of the images, and the rate of always answering it."""
        labels = self.dataset.labels[self.batches.indices[self.batches.places(images)]]
        group, rate, _ = metrics.majority_rate(labels, len(self.dataset.classes))
        return self.dataset.classes[group], rate

    def save(self, table: str, rows: Sequence[Any]) -> None:
        write_rows(self.out / "tables" / f"{table}.csv", rows)

    def introduce(self) -> None:
        for note in self.notes:
            self.say(note, indent=2)
        group, rate = self.always(self.limit)
        size, classes = self.batches.size, len(self.dataset.classes)
        self.say(f"images    {self.limit:,} of {len(self.batches):,} test images of {self.dataset.name}, "
                 f"{size}x{size}, {classes} classes (always {group}: {percent(rate)} %)")  # fmt: skip
        numbered = ", ".join(f"{k} {name}" for k, name in enumerate(self.networks, 1))
        self.say(f"networks  {numbered}", indent=10)
        self.say(f"attacks   {'; '.join(map(str, self.settings))}; examples are 8-bit pixels", indent=10)

    def matrices(self) -> None:
        """One source x target matrix for each attack setting: tables/matrix.csv, leaks.csv and the screen."""
        classes, rows, leaks = self.dataset.classes, list[Row](), list[Leak]()
        for setting in self.settings:
            crossed = self.shared(str(setting), self.limit, crossing.cross, setting, limit=self.limit,
                                  keep=self.examples is not None)  # fmt: skip
            above, predicted = crossed.above_clean(), None
            if above:
                predicted = self.shared("from predicted labels", self.limit, crossing.cross, setting, limit=self.limit,
                                        pairs=above, unrounded=0, predicted_labels=True)  # fmt: skip
            names = matrix.names(crossed, self.entries)
            new_leaks = crossed.leaks(names, predicted)
            leaks += new_leaks
            rows += [row for row in crossed.rows(names, len(classes)) if row.source or not rows]
            self.save("matrix", rows)
            self.save("leaks", leaks)
            self.say("\n" + matrix.matrix_text(crossed, len(classes)))
            for line in matrix.rounding_remarks(crossed) + leak_sentences(new_leaks):
                self.say(line, indent=2)
            if self.examples is not None:
                export.export(self.examples, crossed, classes)

    def curves(self) -> None:
        """Rates by epsilon, for each attack that has one."""
        shape = (self.batches.size, self.batches.size, self.dataset.channels)
        for attack in dict.fromkeys(setting.attack for setting in self.settings if setting.has_epsilon):
            settings = [setting for setting in self.settings if setting.attack == attack]
            points = curves.epsilons([setting.epsilon for setting in settings], settings[0], shape)
            images, what = self.subset * len(points), f"{attack} by epsilon"
            rows = self.shared(what, images, curves.curve, settings[0], points, limit=self.subset)
            self.save(f"curve_{attack}", rows)
            self.say("\n" + curves.curves_text(rows))
            figure_epsilons(self.out / "figures" / f"curve_{attack}.png", rows, self.always(self.subset)[1])

    def masking(self) -> None:
        """The masking report of every network, at the first epsilon above zero."""
        given = [setting.epsilon for setting in self.settings if setting.has_epsilon and not setting.unit]
        epsilon = next((e for e in (*given, self.epsilon) if e > 0), 16 / 256)
        gathered = self.shared("masking", self.subset, masking.gather, epsilon=epsilon, limit=self.subset)
        undefended = {(e.run, e.name): e.label for e in self.entries if e.method == "undefended"}
        rows, summaries = [], []
        self.say(f"\nIs it masking? Rates at epsilon {epsilon_text(epsilon)}; points: by how much the first of two "
                 "attacks is stronger, with 99 % intervals")  # fmt: skip
        for entry in self.entries:
            label, reference = entry.label, undefended.get((entry.run, entry.name))
            evidence = gathered[label]
            checks = masking.checks(evidence, gathered[reference] if reference not in (None, label) else None)
            rows += [dict(network=label, n=self.subset, epsilon=epsilon) | vars(check) for check in checks]
            if evidence.above_chance:
                self.say("\n" + masking.report_text(label, evidence, checks))
            summaries.append(masking.summary(label, evidence, checks))
        self.save("masking", rows)
        self.say()
        for line in summaries:
            self.say(line, indent=2)
