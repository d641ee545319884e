"""One network of an evaluation: where it comes from and what it is called."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Entry:
    """A network of a run, or a weights file by itself (without method and run).

    label: its name in the tables, unique in the evaluation, such as "satm/vgg16".
    """

    file: Path
    name: str
    method: str = ""
    run: Path | None = None
    label: str = ""

    @property
    def source(self) -> str:
        """Its name in the random streams: the same in the run's table and in every evaluation."""
        return f"{self.method}/{self.name}" if self.method else self.name

    @property
    def prefix(self) -> str:
        """What tells it from a network of the same name: the name of the run, the path of the file, or ""."""
        return "" if self.label == self.source else self.label.removesuffix(f":{self.source}")
