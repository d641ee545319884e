"""The results of one run, read once from its folder and asked by method, network and condition."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import numpy as np

from ..attacks import ATTACKS
from ..errors import InputError
from ..units import epsilon_text
from .rows import CLEAN, HOLD_OUT, PARTNER_NEW, PARTNER_OLD, WHITE_BOX, Difference, Leak, Row

Array = Any
Phases = dict[str, dict[str, Array]]  # {phase: {column: (lines,) floats}}, the phases in the order in which they ran
Confusion = tuple[list[str], list[list[int]]]  # the classes, and how often images of each (a line) got each answer
T = TypeVar("T")

METHODS = ("undefended", "control", "standard", "ensemble", "cascade", "teacher", "distillation", "penalty", "satm")
CONDITIONS = (CLEAN, WHITE_BOX, PARTNER_OLD, PARTNER_NEW, HOLD_OUT)
BASELINE = "always "  # begins the method of a row in which every image gets the same answer
RATES = ("n", "rate", "rate_low", "rate_high", "one_off", "one_off_low", "one_off_high")


def cells(row: Any) -> dict[str, str]:
    """A row (dataclass or dict) as the cells of a CSV file: None is empty, a float has 6 significant digits."""
    values = row if isinstance(row, dict) else vars(row)
    return {k: "" if v is None else f"{v:.6g}" if isinstance(v, float) else str(v) for k, v in values.items()}


def write_rows(path: Path, rows: Sequence[Any]) -> None:
    """Write rows with the same fields as a CSV file with one column per field. Without rows no file is written."""
    if rows:
        with open(path, "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([list(cells(rows[0])), *(cells(row).values() for row in rows)])


def read_rows(path: Path, kind: type[T]) -> list[T]:
    """Read a CSV file as rows of the dataclass `kind`, whose fields name the columns; a missing file has no rows.

    A cell that is missing or no number becomes nan, 0 in a field of whole numbers, or None where the field allows it.
    A line without its first field (a file may be cut off) is left out.
    """
    types = get_type_hints(kind)
    whole = [line for line in _read_named(path) if line.get(next(iter(types)))]
    return [kind(**{name: CELLS[t](line.get(name)) for name, t in types.items()}) for line in whole]


def _read_named(path: Path) -> list[dict[str, str]]:
    """The lines of a CSV file whose first line names the columns."""
    names, *lines = _read_lines(path)
    return [dict(zip(names, line)) for line in lines]


def _read_lines(path: Path) -> list[list[str]]:
    if not path.is_file():
        return [[]]
    with open(path, newline="", encoding="utf-8", errors="replace") as file:
        # A power cut may leave zero bytes at the end of a file.
        return list(csv.reader(line.replace("\0", "") for line in file)) or [[]]


def number(cell: str | None) -> float:
    """The number in a cell of a CSV file; nan for a cell that is empty, cut off or no finite number."""
    try:
        value = float(cell or "nan")
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan


CELLS: dict[Any, Callable[[str | None], Any]] = {
    str: lambda cell: cell or "",
    float: number,
    float | None: lambda cell: None if math.isnan(number(cell)) else number(cell),
    int: lambda cell: 0 if math.isnan(number(cell)) else int(number(cell)),
}


@dataclass(frozen=True)
class Results:
    """What a run measured: read from its folder, or made of rows in memory.

    settings: config.json. epochs and log: epochs.csv and log.csv. confusions: by (method, network), without counts
    where the file is damaged. folder: where figures and report.html go.
    """

    settings: Mapping[str, Any]
    rows: Sequence[Row]
    differences: Sequence[Difference] = ()
    leaks: Sequence[Leak] = ()
    epochs: Phases = field(default_factory=dict)
    log: Phases = field(default_factory=dict)
    confusions: Mapping[tuple[str, str], Confusion] = field(default_factory=dict)
    folder: Path = Path()

    @classmethod
    def read(cls, folder: Path | str) -> Results:
        """Read a run folder; a table that it lacks is empty. Raises InputError for a folder that is not a run's."""
        folder = Path(folder)
        settings, tables = _read_settings(folder), folder / "tables"
        rows, differences = read_rows(tables / "results.csv", Row), read_rows(tables / "differences.csv", Difference)
        leaks = read_rows(tables / "leaks.csv", Leak)
        epochs, log = _read_phases(folder / "epochs.csv"), _read_phases(folder / "log.csv")
        files = [(m, path) for m in METHODS for path in sorted(tables.glob(f"confusion_{m}_*.csv"))]
        confusions = {(m, path.stem.split("_", 2)[2]): _read_confusion(path) for m, path in files}
        return cls(settings, rows, differences, leaks, epochs, log, confusions, folder)

    @property
    def networks(self) -> list[str]:
        """The trained networks, those of the settings first, then those of the rows; never the hold-out."""
        names = dict.fromkeys([*self._named(), *(row.network for row in self.rows if row.network)])
        return [name for name in names if name != self.holdout]

    @property
    def holdout(self) -> str:
        """The network that only lends its examples; "" without one."""
        sources = [row.source for row in self.rows if row.condition == HOLD_OUT and row.source]
        if sources:
            return sources[0].split("/", 1)[-1]
        holdout = str(self.settings.get("holdout") or "none")
        # A run renames a hold-out that has the name of one of its networks.
        return "" if holdout == "none" else f"hold-out-{holdout}" if holdout in self._named() else holdout

    @property
    def holdout_name(self) -> str:
        """The hold-out without the "hold-out-" that a run may have put before its name."""
        return self.holdout.removeprefix("hold-out-")

    @property
    def methods(self) -> list[str]:
        """The methods of the rows, the known ones in the paper's order; baselines are left out."""
        seen = dict.fromkeys(row.method for row in self.rows if not row.method.startswith(BASELINE))
        return [m for m in METHODS if m in seen] + [m for m in seen if m not in METHODS]

    @property
    def baselines(self) -> list[Row]:
        """The rows of always answering one class."""
        return [row for row in self.rows if row.method.startswith(BASELINE) and not math.isnan(row.rate)]

    @property
    def epsilon(self) -> str:
        """Epsilon as the paper prints it, such as "16/256"."""
        return epsilon_text(self.settings.get("epsilon") or "unknown")

    @property
    def attack(self) -> str:
        return str(self.settings.get("attack") or "r_fgsm").lower()

    @property
    def may_leak(self) -> bool:
        """Whether the attack reads the true label, which a network could then read from the examples."""
        return self.attack not in ATTACKS or ATTACKS[self.attack].reads_label

    def cell(self, method: str, network: str, condition: str) -> Row | None:
        """The rates of one network under one condition, or None where they were not measured.

        Several sources of one condition are averaged, rates and interval ends alike: the images are the same, so
        more sources do not make the interval smaller.
        """
        key = (method, network, condition)
        rows = [r for r in self.rows if (r.method, r.network, r.condition) == key and not math.isnan(r.rate)]
        if len(rows) < 2:
            return rows[0] if rows else None
        means = np.mean([[getattr(row, name) for name in RATES] for row in rows], axis=0)
        return replace(rows[0], source="", rate_before_rounding=None, perturbation=None, largest_perturbation=None,
                       **dict(zip(RATES, [round(means[0]), *means[1:].tolist()])))  # fmt: skip

    def _named(self) -> list[str]:
        """The names in the setting networks, as in face=resnet50,vgg16."""
        named = self.settings.get("networks")
        return [str(name).partition("=")[0] for name in named] if isinstance(named, list) else []


def label(method: str) -> str:
    """The name that a reader sees for a method or phase: "satm" is SATM, the others stay as they are."""
    return "SATM" if method == "satm" else method


def _read_settings(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not folder.is_dir():
        raise InputError(f"There is no folder {folder}: give the folder that a training run has written.")
    if (folder / "evaluation.txt").exists():
        raise InputError(f"{folder} is an evaluation, not a run: read its evaluation.txt, or give the folder of a run.")
    if not path.is_file():
        raise InputError(f"{folder} is not a run folder, it has no config.json: give the folder a run has written.")
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON ({error}): repair it or run the training again.") from error
    if not isinstance(settings, dict) or "method" not in settings:
        raise InputError(f"{path} does not hold the settings of a run (no method): give the folder a run has written.")
    return settings


def _read_phases(path: Path) -> Phases:
    phases: dict[str, list[dict[str, str]]] = {}
    for line in _read_named(path):
        phases.setdefault(line.get("phase", ""), []).append(line)
    phases.pop("", None)  # lines that are cut off
    return {phase: {key: np.array([number(line.get(key)) for line in lines])
                    for key in dict.fromkeys(["iteration", "epoch", *lines[0]]) if key and key != "phase"}
            for phase, lines in phases.items()}  # fmt: skip


def _read_confusion(path: Path) -> Confusion:
    classes, *lines = _read_lines(path)
    try:
        counts = [[int(cell) for cell in line] for line in lines]
    except ValueError:
        counts = []
    square = {len(counts), *map(len, counts)} == {len(classes)}
    return classes, counts if square else []
