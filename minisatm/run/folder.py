"""The run folder: settings, logs, tables, checkpoints and the trained networks."""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..models import files
from ..models.network import Network
from ..parallel import ALONE, Team
from ..results.tables import cells
from ..satm import Learner

# The columns of log.csv and epochs.csv for each network; OWN_TERMS are those of one method.
LOSS_TERMS = ("loss", "clean", "adversarial", "domain", "rate", "adversarial_rate", "gradient_norm", "learning_rate")
OWN_TERMS = {"cascade": ("embedding",), "penalty": ("penalty",)}
EPOCH_TERMS = ("train_clean", "train_adversarial", "validation_clean", "validation_adversarial", "validation_loss")


@dataclass
class Position:
    """Where a run stands: `iteration` steps of this phase are done.

    best: the lowest validation loss of the phase, after best_at steps. worse: the evaluations since then.
    """

    phase: str
    iteration: int = 0
    best: float | None = None
    best_at: int = -1
    worse: int = 0


@dataclass
class RunFolder:
    """runs/<name>/ with config.json, log.csv, epochs.csv, last.h5, best.h5, networks/, tables/ and figures/.

    Several processes may hold the same folder. It writes in the one that leads its team; in the others it does nothing.
    """

    path: Path
    team: Team = ALONE

    @classmethod
    def create(cls, path: Path, settings: Any, names: Sequence[str]) -> RunFolder:
        """Make a new folder. InputError if it exists and is not empty: nothing is ever overwritten."""
        cls.check_free(path)
        for part in ("tables", "figures", "networks"):
            (path / part).mkdir(parents=True, exist_ok=True)
        settings.save(path / "config.json")
        run = cls(path)
        log_terms = (*LOSS_TERMS, *OWN_TERMS.get(settings.method, ()))
        for file, third, terms in (("log.csv", "seconds", log_terms), ("epochs.csv", "epoch", EPOCH_TERMS)):
            run._write(file, [["phase", "iteration", third, *(f"{name}.{t}" for name in names for t in terms)]])
        return run

    @staticmethod
    def check_free(path: Path) -> None:
        """InputError if a new run would overwrite something."""
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise InputError(f"{path} already exists: choose another --out, or go on with --resume {path}.")

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """The folder of an earlier run. InputError if it is none."""
        if not (path / "config.json").is_file():
            raise InputError(f"{path} is not a run folder (no config.json): name one that minisatm.train made.")
        return cls(path)

    def append(self, file: str, row: dict[str, Any]) -> None:
        """Add a row to a CSV file; columns that the row does not have stay empty."""
        with open(self.path / file, newline="") as f:
            header = next(csv.reader(f))
        values = cells(row)
        self._write(file, [[values.get(column, "") for column in header]], "a")

    def forget_after(self, position: Position, phases: Iterable[str]) -> None:
        """Delete the rows that a run resumed at this position writes again: those of later steps and phases."""
        order = {name: k for k, name in enumerate(phases)}
        first = order[position.phase], position.iteration
        for file in ("log.csv", "epochs.csv"):
            path = self.path / file
            try:
                with open(path, newline="") as f:
                    header, *rows = csv.reader(f)
            except (OSError, ValueError) as problem:
                raise InputError(f"{path} cannot be read ({problem}): start again with another --out.") from problem
            whole = [r for r in rows if len(r) == len(header) and r[0] in order]  # a power cut may leave half a row
            self._write(file, [header, *(r for r in whole if (order[r[0]], int(r[1])) < first)])

    def _write(self, file: str, rows: list[list[str]], mode: str = "w") -> None:
        if self.team.leads:
            with open(self.path / file, mode, newline="") as f:
                csv.writer(f).writerows(rows)

    def network_file(self, method: str, name: str) -> Path:
        """Where the network of this name is after this method."""
        return self.path / "networks" / f"{method}-{name}.h5"

    def save_networks(self, method: str, networks: dict[str, Network], classes: Sequence[str]) -> None:
        if self.team.leads:
            for name, network in networks.items():
                network.save(str(self.network_file(method, name)), labels=classes)

    def save_checkpoint(self, learners: Sequence[Learner], position: Position) -> None:
        """Write everything that the learners carry, and the run's position, to last.h5."""

        def fill(h5: Any) -> None:
            h5.attrs["position"] = json.dumps(asdict(position))
            for learner in learners:
                for part, state in learner.state().items():
                    files.write_arrays(h5.create_group(f"{learner.name}/{part}"), state)

        if self.team.leads:
            files.write_atomically(self.path / "last.h5", fill)

    def keep_as_best(self) -> None:
        """Copy last.h5 to best.h5."""
        if self.team.leads:
            part = shutil.copyfile(self.path / "last.h5", self.path / "best.h5.part")
            os.replace(part, self.path / "best.h5")

    def position(self) -> Position:
        """The position of the run in last.h5."""
        if not (self.path / "last.h5").is_file():
            raise InputError(f"{self.path} has no checkpoint yet (last.h5): start the run again with another --out.")
        with files.open_h5(self.path / "last.h5") as h5:
            return Position(**json.loads(h5.attrs["position"]))

    def load_checkpoint(self, file: str, learners: Sequence[Learner]) -> None:
        """Give the learners everything that last.h5 or best.h5 holds of them."""
        with files.open_h5(self.path / file) as h5:
            for learner in learners:
                learner.set_state({part: files.read_arrays(h5[f"{learner.name}/{part}"]) for part in learner.parts()})
