"""What a long run tells its user: a bar on a terminal, a line now and then in a log, and the time that is left."""

from __future__ import annotations

import sys
import time
from typing import Any

EVERY = 10.0  # seconds between lines where there is no terminal
# The work of one step beside a clean one: to craft and to train on twice the images, to ask a teacher, to look twice.
COST = {"clean": 1.5, "control": 1.0, "teacher": 1.0, "distillation": 1.3}
COST |= dict.fromkeys(("standard", "ensemble", "cascade", "satm", "penalty"), 2.7)


def duration(seconds: float) -> str:
    """72 -> "1 min 12 s"; the two largest units."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{seconds // 60:.0f} min {seconds % 60:02.0f} s"
    if seconds < 86400:
        return f"{seconds // 3600:.0f} h {seconds % 3600 // 60:02.0f} min"
    return f"{seconds // 86400:.0f} days {seconds % 86400 // 3600:.0f} h"


def bar(total: int, what: str, unit: str) -> Any:
    """A plain bar for work that is not training; silent where there is no terminal."""
    from tqdm import tqdm

    return tqdm(total=total, desc=what, unit=unit, disable=None, file=sys.stderr, leave=False)


class Progress:
    """Follows the phases of a run: plan is [(phase, steps)]; the time left is judged from the steps so far."""

    def __init__(self, plan: list[tuple[str, int]], *, note: Any = None) -> None:
        self.plan, self.total = dict(plan), sum(steps for _, steps in plan)
        self.note = note  # called once, with the estimated seconds of the whole run, after its first steps
        self.spent = self.work = 0.0
        self.steps, self.last_line = 0, time.monotonic()
        self.bar: Any = None

    def step(self, phase: str, done: int, of: int, seconds: float, losses: dict[str, dict[str, float]]) -> None:
        """One more step of this phase is done (`done` of `of`), and took so many seconds."""
        self.steps += 1
        if self.steps > 1 or of == 1:  # the first step pays for warming up
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
        """Seconds that the remaining steps of this and the later phases will take."""
        phases = list(self.plan)
        later = phases[phases.index(phase) + 1 :]
        work = COST[phase] * (self.plan[phase] - done) + sum(COST[p] * self.plan[p] for p in later)
        return work * self.spent / self.work if self.work else 0.0

    def _draw(self, phase: str, done: int, of: int, text: str) -> None:
        from tqdm import tqdm

        if self.bar is None or self.bar.desc != f"{phase}: ":
            self.close()
            shape = "{desc}{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} {rate_fmt}{postfix}"
            self.bar = tqdm(
                total=of, initial=done - 1, desc=f"{phase}: ", bar_format=shape, unit="step", file=sys.stderr
            )
        self.bar.set_postfix_str(text, refresh=False)
        self.bar.update(done - self.bar.n)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None
