"""What a long run shows its user: a bar on a terminal or a line in a log from time to time, and the time left."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

EVERY = 10.0  # seconds between lines where there is no terminal
# The work of a step of each phase; 1 is a step of two networks on clean images. In the clean phase the hold-out is a
# third network. Distillation also runs the teacher. The last five craft examples, or take a second gradient.
COST = {"clean": 1.5, "control": 1.0, "teacher": 1.0, "distillation": 1.3}
COST |= dict.fromkeys(("standard", "ensemble", "cascade", "satm", "penalty"), 2.7)


def duration(seconds: float) -> str:
    """The time in its two largest units: 72 -> "1 min 12 s"."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{seconds // 60:.0f} min {seconds % 60:02.0f} s"
    if seconds < 86400:
        return f"{seconds // 3600:.0f} h {seconds % 3600 // 60:02.0f} min"
    return f"{seconds // 86400:.0f} days {seconds % 86400 // 3600:.0f} h"


def bar(total: int, what: str, unit: str, *, leave: bool = False, **options: Any) -> Any:
    """A bar of tqdm, with its options; it shows nothing where there is no terminal. leave: keep it at the end."""
    from tqdm import tqdm

    return tqdm(total=total, desc=what, unit=unit, disable=None, file=sys.stderr, leave=leave, **options)


class Progress:
    """The progress of a run through its phases, with the time left as the steps so far let expect it.

    plan: [(phase, steps)]. note: called once, after the first steps, with the estimated seconds of the whole run.
    """

    def __init__(self, plan: list[tuple[str, int]], *, note: Callable[[float], None] | None = None) -> None:
        self.plan, self.note = dict(plan), note
        self.spent = self.work = 0.0
        self.steps, self.last_line = 0, time.monotonic()
        self.bar: Any = None

    def step(self, phase: str, done: int, of: int, seconds: float, losses: dict[str, dict[str, float]]) -> None:
        """Show that one more step of this phase is done, number `done` of `of`, and took so many seconds."""
        self.steps += 1
        if self.steps > 1 or of == 1:  # the first step is slower: caches and buffers are empty
            self.spent, self.work = self.spent + seconds, self.work + COST[phase]
        if self.steps == 4 and self.note is not None:
            self.note(self.left(phase, 0))
        text = "  ".join(f"{name} {terms['loss']:.3f}" for name, terms in losses.items() if "loss" in terms)
        left = duration(self.left(phase, done))
        if sys.stderr.isatty():
            self._draw(phase, done, of, f"{text}  ({left} left)")
        elif time.monotonic() - self.last_line > EVERY:
            self.last_line = time.monotonic()
            print(f"{phase} {done}/{of}  loss {text}  about {left} left", file=sys.stderr, flush=True)

    def left(self, phase: str, done: int) -> float:
        """The seconds that the remaining steps of this phase and of the later ones will take."""
        phases = list(self.plan)
        later = phases[phases.index(phase) + 1 :]
        work = COST[phase] * (self.plan[phase] - done) + sum(COST[p] * self.plan[p] for p in later)
        return work * self.spent / self.work if self.work else 0.0

    def _draw(self, phase: str, done: int, of: int, text: str) -> None:
        if self.bar is None or self.bar.desc != f"{phase}: ":
            self.close()
            shape = "{desc}{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} {rate_fmt}{postfix}"
            self.bar = bar(of, f"{phase}: ", "step", initial=done - 1, bar_format=shape, leave=True)
        self.bar.set_postfix_str(text, refresh=False)
        self.bar.update(done - self.bar.n)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None
