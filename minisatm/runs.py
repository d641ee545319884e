"""The run folder: settings, logs, checkpoints, and the monitor that watches a training loop and keeps them."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from . import weights
from .backend import numbers
from .errors import InputError
from .measure import validate
from .parallel import alone, leads, on_all
from .satm import Learner, Losses, Rules

LOSS_TERMS = ("loss", "clean", "adversarial", "domain", "rate", "adversarial_rate", "gradient_norm", "learning_rate")
OWN_TERMS = {"cascade": ("embedding",), "penalty": ("penalty",)}  # of one method
EPOCH_TERMS = ("train_clean", "train_adversarial", "validation_clean", "validation_adversarial", "validation_loss")


class Interrupted(Exception):
    """The user stopped the run; its checkpoint is written."""


class RunFolder:
    """runs/<name>/ with config.json, log.csv, epochs.csv, last.h5, best.h5, networks/, tables/ and figures/."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, path: Path, settings: Any, names: Sequence[str]) -> RunFolder:
        """Make a new folder; one that is there already and not empty is never written into."""
        cls.check_free(path)
        for part in ("tables", "figures", "networks"):
            (path / part).mkdir(parents=True, exist_ok=True)
        settings.save(path / "config.json")
        run = cls(path)
        columns, terms = ["phase", "iteration", "seconds"], (*LOSS_TERMS, *OWN_TERMS.get(settings.method, ()))
        run._write("log.csv", [[*columns, *(f"{name}.{t}" for name in names for t in terms)]])
        run._write(
            "epochs.csv", [["phase", "iteration", "epoch", *(f"{name}.{t}" for name in names for t in EPOCH_TERMS)]]
        )
        return run

    @staticmethod
    def check_free(path: Path) -> None:
        """An InputError where a new run would write over something."""
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise InputError(f"{path} already exists: choose another --out, or go on with --resume {path}.")

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        if not (path / "config.json").is_file():
            raise InputError(f"{path} is not a run folder (no config.json): name one that minisatm.train made.")
        return cls(path)

    def append(self, file: str, row: dict[str, Any]) -> None:
        """Add a row; columns that the row does not have stay empty."""
        if not leads():
            return
        with open(self.path / file, newline="") as f:
            header = next(csv.reader(f))
        self._write(file, [[_text(row.get(column)) for column in header]], "a")

    def forget_after(self, phases: Sequence[str], phase: str, iteration: int) -> None:
        """Drop the rows that a resumed run will write again: this phase's from `iteration` on, and later phases'."""
        rank = {name: k for k, name in enumerate(phases)}
        for file in ("log.csv", "epochs.csv"):
            try:
                with open(self.path / file, newline="") as f:
                    header, *rows = csv.reader(f)
            except (OSError, ValueError) as problem:
                raise InputError(
                    f"{self.path / file} cannot be read ({problem}): start again with another --out."
                ) from problem
            whole = [r for r in rows if len(r) == len(header) and r[0] in rank]  # a power cut may leave half a row
            self._write(file, [header, *(r for r in whole if (rank[r[0]], int(r[1])) < (rank[phase], iteration))])

    def _write(self, file: str, rows: list[list[str]], mode: str = "w") -> None:
        with open(self.path / file, mode, newline="") as f:
            csv.writer(f).writerows(rows)

    def table(self, name: str, rows: list[dict[str, Any]]) -> None:
        """Write tables/<name>.csv; the columns are those of the first row."""
        self._write(f"tables/{name}.csv", [list(rows[0]), *([_text(v) for v in row.values()] for row in rows)])

    def network_file(self, method: str, name: str) -> Path:
        return self.path / "networks" / f"{method}-{name}.h5"

    def save_checkpoint(self, learners: Sequence[Learner], position: dict[str, Any]) -> None:
        """Write learners with all that they carry, and how far the run is, to last.h5."""
        if not leads():
            return

        def fill(h5: Any) -> None:
            h5.attrs["position"] = json.dumps(position)
            for learner in learners:
                for part, owner in _parts(learner).items():
                    weights.write_arrays(h5.create_group(f"{learner.name}/{part}"), owner.state())

        weights.write_atomically(self.path / "last.h5", fill)

    def keep_as_best(self) -> None:
        """Copy last.h5 to best.h5."""
        if not leads():
            return
        part = self.path / "best.h5.part"
        shutil.copyfile(self.path / "last.h5", part)
        os.replace(part, self.path / "best.h5")

    def position(self) -> dict[str, Any]:
        """How far last.h5 is: {"phase", "iteration", "best", "best_at", "worse"}."""
        if not (self.path / "last.h5").is_file():
            raise InputError(f"{self.path} has no checkpoint yet (last.h5): start the run again with another --out.")
        with weights.open_h5(self.path / "last.h5") as h5:
            return dict(json.loads(h5.attrs["position"]))

    def load_checkpoint(self, file: str, learners: Sequence[Learner]) -> None:
        with weights.open_h5(self.path / file) as h5:
            for learner in learners:
                for part, owner in _parts(learner).items():
                    owner.set_state(weights.read_arrays(h5[f"{learner.name}/{part}"]))


def _parts(learner: Learner) -> dict[str, Any]:
    parts = dict(network=learner.network, optimiser=learner.optimiser, domain=learner.domain,
                 domain_optimiser=learner.domain_optimiser)  # fmt: skip
    return {name: part for name, part in parts.items() if part is not None}


def _meet(learners: Sequence[Learner]) -> None:
    """Where each process trains its own learners, give every process the state of all."""
    if alone():
        return
    states = on_all(lambda learner: {part: owner.state() for part, owner in _parts(learner).items()}, learners)
    for learner, state in zip(learners, states):
        for part, owner in _parts(learner).items():
            owner.set_state(state[part])


def _text(value: Any) -> str:
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


class Monitor:
    """Watches one phase: times and logs each step, validates, checkpoints, and stops early (satm.Monitor).

    sources[k]: whose examples learner k is validated on (None: clean images only). judged: the names whose losses early
    stopping adds up, Loss_A + Loss_B. adversarial: do these losses hold the adversarial terms, as in line 4 of
    Algorithm 1, or only the clean one?
    """

    def __init__(
        self,
        run: RunFolder,
        phase: str,
        learners: Sequence[Learner],
        sources: Sequence[Learner | None],
        rules: Rules,
        data: Any,
        settings: Any,
        *,
        iterations: int,
        judged: Sequence[str],
        adversarial: bool,
        display: Any,
    ) -> None:
        self.run, self.phase, self.learners, self.sources, self.rules = run, phase, learners, sources, rules
        self.data, self.settings, self.iterations, self.adversarial = data, settings, iterations, adversarial
        self.judged, self.display = judged, display
        self.start, self.best, self.best_at, self.worse, self.stopped_early = 0, float("inf"), -1, 0, False
        self.every = settings.evaluate_every or data.train.steps_per_epoch
        self._interrupted = False

    def resume(self, position: dict[str, Any]) -> None:
        """Go on from a checkpoint of this phase."""
        self.run.load_checkpoint("last.h5", self.learners)
        self.start, self.worse = position["iteration"], position["worse"]
        self.best = float("inf") if position["best"] is None else position["best"]
        self.stopped_early = self._out_of_patience()
        self.best_at = position["best_at"]
        if self.best_at == self.start:
            self.run.keep_as_best()  # the run may have been cut off just before it did

    def batches(self) -> Iterator[tuple[int, Any, Any]]:
        """The phase's batches, prepared in the background; Ctrl-C is held back until the step in hand is done."""
        if self.start == 0:
            self._checkpoint(0)
        if self.stopped_early:
            return
        with _held_interrupt(self):
            for iteration, x, y in self.data.train.stream(self.start, self.iterations):
                self._began = time.perf_counter()
                yield iteration, x, y

    def stop(self, iteration: int, losses: dict[str, Losses]) -> bool:
        losses = numbers(losses)  # the one place in a step that waits for a GPU
        seconds = time.perf_counter() - self._began
        for name, terms in losses.items():
            for term, value in terms.items():
                if not np.isfinite(value):
                    raise self._diverged(f"the {term} of {name} is {value:g}", iteration)
        row = {"phase": self.phase, "iteration": iteration, "seconds": seconds}
        self.run.append("log.csv", row | {f"{n}.{t}": v for n, terms in losses.items() for t, v in terms.items()})
        done = iteration + 1
        self.display.step(self.phase, done, self.iterations, seconds, losses)
        stop, interrupted = False, on_all(lambda monitor: monitor._interrupted, [self])[0]
        look = done % self.every == 0 or done == self.iterations
        if look or interrupted:
            _meet(self.learners)
        if look:
            stop = self._validate(done)
            self._checkpoint(done)
            if self.best_at == done:
                self.run.keep_as_best()
        if interrupted:
            self._checkpoint(done)
            raise Interrupted
        return stop

    def _validate(self, done: int) -> bool:
        """One row of epochs.csv; is it time to stop early?"""
        limit, row = self.settings.evaluate_images, {}
        loss = 0.0
        for part, batches in (("train", self.data.train), ("validation", self.data.validation)):
            for learner, terms in validate(self.learners, self.sources, batches, self.rules, limit=limit).items():
                row |= {
                    f"{learner}.{part}_clean": terms["rate"],
                    f"{learner}.{part}_adversarial": terms.get("adversarial_rate"),
                }
                if part == "validation":
                    own = terms["loss" if self.adversarial else "clean"]
                    if not np.isfinite(own):
                        raise self._diverged(f"the validation loss of {learner} is {own:g}", done - 1)
                    row[f"{learner}.validation_loss"] = own
                    loss += own if learner in self.judged else 0.0  # Loss_A + Loss_B: the hold-out has no say
        epoch = done / self.data.train.steps_per_epoch
        self.run.append("epochs.csv", {"phase": self.phase, "iteration": done - 1, "epoch": epoch} | row)
        if loss < self.best:
            self.best, self.best_at, self.worse = loss, done, 0
        else:
            self.worse += 1
        self.stopped_early = self._out_of_patience()
        return self.stopped_early

    def _out_of_patience(self) -> bool:
        return bool(self.settings.patience and self.worse >= self.settings.patience)

    def _position(self, done: int) -> dict[str, Any]:
        best = None if self.best == float("inf") else self.best
        return {"phase": self.phase, "iteration": done, "best": best, "best_at": self.best_at, "worse": self.worse}

    def _checkpoint(self, done: int) -> None:
        for learner in self.learners:
            if not all(np.isfinite(a).all() for a in learner.network.state().values()):
                raise self._diverged(f"a weight of {learner.name} is not finite", done - 1)
        self.run.save_checkpoint(self.learners, self._position(done))

    def _diverged(self, what: str, iteration: int) -> InputError:
        kept = self.run.path / "last.h5"
        step = self.run.position()["iteration"] if kept.exists() else 0
        return InputError(
            f"{what} at step {iteration} of {self.phase}: stopped. {kept} holds the last good weights (step {step}); "
            "try a smaller --learning-rate or a --clip."
        )


class _held_interrupt:
    """Ctrl-C sets a flag, so that no step is cut in two; a second one acts at once (signals reach the main thread)."""

    def __init__(self, monitor: Monitor) -> None:
        self.monitor = monitor

    def __enter__(self) -> None:
        self.before = None
        if threading.current_thread() is threading.main_thread():
            self.before = signal.signal(signal.SIGINT, self._note)

    def _note(self, *_: Any) -> None:
        if self.monitor._interrupted:
            raise KeyboardInterrupt
        self.monitor._interrupted = True

    def __exit__(self, *problem: Any) -> None:
        if self.before is not None:
            signal.signal(signal.SIGINT, self.before)
