"""The monitor of a phase: gives the loop its batches, logs and validates, writes checkpoints, and stops early."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..backend import as_floats
from ..errors import InputError
from ..evaluation.validation import validate
from ..progress import Progress
from ..satm import Learner, Losses, Rules
from .folder import Position, RunFolder
from .phases import ADVERSARIAL
from .settings import Settings


class Interrupted(Exception):
    """The user stopped the run; its checkpoint is written."""


@dataclass
class Monitor:
    """Watches one phase (satm.Monitor): times and logs each step, validates, writes checkpoints, and stops early.

    position: where the phase stands; after its first step it goes on from last.h5. sources[k]: the learner whose
    examples validation shows to learner k; None for the hold-out, which sees only clean images and has no say in early
    stopping. loss: what validation computes, with satm.loss_terms' arguments. data: the batches of the run.
    """

    run: RunFolder
    position: Position
    steps: int
    learners: Sequence[Learner]
    sources: Sequence[Learner | None]
    rules: Rules
    loss: Callable[..., Any]
    data: Any
    settings: Settings
    display: Progress
    _interrupted: bool = False

    @property
    def stopped_early(self) -> bool:
        return bool(self.settings.patience and self.position.worse >= self.settings.patience)

    def batches(self) -> Iterator[tuple[int, Any, Any]]:
        """The batches of the phase, prepared in the background. Ctrl-C waits until the current step is complete."""
        if self.position.iteration == 0:
            self._checkpoint(0)
        else:
            self.run.load_checkpoint("last.h5", self.learners)
        if self.position.best_at == self.position.iteration:
            self.run.keep_as_best()  # an interrupted run may have ended between the checkpoint and this copy
        if self.stopped_early:
            return
        may_handle = threading.current_thread() is threading.main_thread()
        before = signal.signal(signal.SIGINT, self._interrupt_later) if may_handle else None
        try:
            for iteration, x, y in self.data.train.stream(self.position.iteration, self.steps):
                self._began = time.perf_counter()
                yield iteration, x, y
        finally:
            if before is not None:
                signal.signal(signal.SIGINT, before)

    def _interrupt_later(self, *_: Any) -> None:
        """Note Ctrl-C, so that no step is cut in two; a second Ctrl-C acts at once."""
        if self._interrupted:
            raise KeyboardInterrupt
        self._interrupted = True

    def stop(self, iteration: int, losses: dict[str, Losses]) -> bool:
        """Log a step, validate and write a checkpoint when it is time; is it time to stop early?"""
        losses = as_floats(losses)  # the one place in a step that waits for a GPU
        seconds, phase, done = time.perf_counter() - self._began, self.position.phase, iteration + 1
        row = {f"{name}.{term}": value for name, terms in losses.items() for term, value in terms.items()}
        for column, value in row.items():
            name, _, term = column.rpartition(".")
            self._check_finite(value, f"the {term} of {name} is {value:g}", iteration)
        self.run.append("log.csv", dict(phase=phase, iteration=iteration, seconds=seconds) | row)
        self.display.step(phase, done, self.steps, seconds, losses)
        every = self.settings.evaluate_every or self.data.train.steps_per_epoch
        validates = done % every == 0 or done == self.steps
        interrupted = any(self.run.team.map(lambda _: self._interrupted, [0]))
        if validates or interrupted:
            self.run.team.fetch(self.learners)
            if validates:
                self._validate(done)
            self._checkpoint(done)
            if self.position.best_at == done:
                self.run.keep_as_best()
        if interrupted:
            raise Interrupted
        return self.stopped_early

    def _validate(self, done: int) -> None:
        """Write a row of epochs.csv, and note in the position whether the loss is lower than before."""
        at, loss = self.position, 0.0
        row: dict[str, Any] = dict(phase=at.phase, iteration=done - 1, epoch=done / self.data.train.steps_per_epoch)
        for part, batches in (("train", self.data.train), ("validation", self.data.validation)):
            means = validate(self.learners, self.sources, batches, self.rules, limit=self.settings.evaluate_images,
                             team=self.run.team, loss=self.loss)  # fmt: skip
            for name, terms in means.items():
                row[f"{name}.{part}_clean"] = terms["rate"]
                row[f"{name}.{part}_adversarial"] = terms.get("adversarial_rate")
        for learner, source in zip(self.learners, self.sources):
            value = means[learner.name]["loss" if at.phase in ADVERSARIAL else "clean"]
            self._check_finite(value, f"the validation loss of {learner.name} is {value:g}", done - 1)
            row[f"{learner.name}.validation_loss"] = value
            loss += value if source is not None else 0.0  # line 4 of Algorithm 1: Loss_A + Loss_B
        self.run.append("epochs.csv", row)
        if at.best is None or loss < at.best:
            at.best, at.best_at, at.worse = loss, done, 0
        else:
            at.worse += 1

    def _checkpoint(self, done: int) -> None:
        for learner in self.learners:
            for array in learner.network.state().values():
                self._check_finite(array, f"a weight of {learner.name} is not finite", done - 1)
        self.position.iteration = done
        self.run.save_checkpoint(self.learners, self.position)

    def _check_finite(self, value: Any, problem: str, iteration: int) -> None:
        if not np.isfinite(value).all():
            raise InputError(
                f"{problem} at step {iteration} of {self.position.phase}: stopped. {self.run.path / 'last.h5'} holds "
                f"the last good weights (step {self.position.iteration}); try a smaller --learning-rate or a --clip."
            )
