"""The monitor of a phase: gives the loop its batches, logs and validates, writes checkpoints, and stops early."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ..backend import as_floats
from ..errors import InputError
from ..evaluation.validation import validate
from ..parallel import Team
from ..satm import Learner, Losses, Rules
from .folder import RunFolder


class Interrupted(Exception):
    """The user stopped the run; its checkpoint is written."""


class Monitor:
    """Watches one phase (satm.Monitor): times and logs each step, validates, writes checkpoints, and stops early.

    sources[k]: the learner whose examples validation shows to learner k (None: only clean images). loss: what it
    computes, with satm.loss_terms' arguments. judged: the names whose losses early stopping adds up, Loss_A + Loss_B.
    adversarial: does that sum hold the adversarial terms, as in line 4 of Algorithm 1, or only the clean ones?
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
        loss: Any,
        display: Any,
        team: Team,
    ) -> None:
        self.run, self.team, self.loss = run.seen_by(team), team, loss
        self.phase, self.learners, self.sources, self.rules = phase, learners, sources, rules
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
            self.run.keep_as_best()  # the run may have ended between the checkpoint and this copy

    def batches(self) -> Iterator[tuple[int, Any, Any]]:
        """The batches of the phase, prepared in the background. Ctrl-C waits until the current step is complete."""
        if self.start == 0:
            self._checkpoint(0)
        if self.stopped_early:
            return
        with _InterruptLater(self):
            for iteration, x, y in self.data.train.stream(self.start, self.iterations):
                self._began = time.perf_counter()
                yield iteration, x, y

    def stop(self, iteration: int, losses: dict[str, Losses]) -> bool:
        """Log a step, validate and write a checkpoint when it is time; is it time to stop early?"""
        losses = as_floats(losses)  # the one place in a step that waits for a GPU
        seconds = time.perf_counter() - self._began
        for name, terms in losses.items():
            for term, value in terms.items():
                if not np.isfinite(value):
                    raise self._diverged(f"the {term} of {name} is {value:g}", iteration)
        row: dict[str, Any] = {"phase": self.phase, "iteration": iteration, "seconds": seconds}
        self.run.append("log.csv", row | {f"{n}.{t}": v for n, terms in losses.items() for t, v in terms.items()})
        done = iteration + 1
        self.display.step(self.phase, done, self.iterations, seconds, losses)
        stop, interrupted = False, any(self.team.map(lambda _: self._interrupted, [0]))
        validates = done % self.every == 0 or done == self.iterations
        if validates or interrupted:
            self.team.fetch(self.learners)
        if validates:
            stop = self._validate(done)
            self._checkpoint(done)
            if self.best_at == done:
                self.run.keep_as_best()
        if interrupted:
            self._checkpoint(done)
            raise Interrupted
        return stop

    def _validate(self, done: int) -> bool:
        """Write one row of epochs.csv; is it time to stop early?"""
        row: dict[str, Any] = {}
        loss = 0.0
        for part, batches in (("train", self.data.train), ("validation", self.data.validation)):
            for name, terms in self._validated_on(batches).items():
                row |= {
                    f"{name}.{part}_clean": terms["rate"],
                    f"{name}.{part}_adversarial": terms.get("adversarial_rate"),
                }
                if part == "validation":
                    value = terms["loss" if self.adversarial else "clean"]
                    if not np.isfinite(value):
                        raise self._diverged(f"the validation loss of {name} is {value:g}", done - 1)
                    row[f"{name}.validation_loss"] = value
                    loss += value if name in self.judged else 0.0  # Loss_A + Loss_B, without the hold-out
        epoch = done / self.data.train.steps_per_epoch
        self.run.append("epochs.csv", {"phase": self.phase, "iteration": done - 1, "epoch": epoch} | row)
        if loss < self.best:
            self.best, self.best_at, self.worse = loss, done, 0
        else:
            self.worse += 1
        self.stopped_early = self._out_of_patience()
        return self.stopped_early

    def _validated_on(self, batches: Any) -> dict[str, Losses]:
        return validate(self.learners, self.sources, batches, self.rules, limit=self.settings.evaluate_images,
                        team=self.team, loss=self.loss)  # fmt: skip

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


class _InterruptLater:
    """Ctrl-C sets a flag, so that no step is cut in two; a second Ctrl-C acts at once."""

    def __init__(self, monitor: Monitor) -> None:
        self.monitor = monitor

    def __enter__(self) -> None:
        self.before: Any = None
        if threading.current_thread() is threading.main_thread():
            self.before = signal.signal(signal.SIGINT, self._note)

    def _note(self, *_: Any) -> None:
        if self.monitor._interrupted:
            raise KeyboardInterrupt
        self.monitor._interrupted = True

    def __exit__(self, *problem: Any) -> None:
        if self.before is not None:
            signal.signal(signal.SIGINT, self.before)
