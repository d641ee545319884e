"""The data sets, by name, and batches of their images."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from pathlib import Path

from ..errors import InputError
from ..inputs import check_choice
from .batches import Batches
from .checked import Progress
from .dataset import Dataset, Split
from .text import shown

NAMES = ("faces", "adience", "mnist", "folder")

__all__ = ["NAMES", "Batches", "Dataset", "Split", "load"]


def load(
    name: str, directory: str | Path, *, labels: str = "strict", progress: Progress | None = lambda done, total: None
) -> Dataset:
    """Read the data set `name` (faces, adience, mnist or folder) from a directory.

    labels: which of Adience's labels are used (strict, strict+fix or mapped, see adience.group_of). All image files are
    decoded once, and what was checked is remembered in ~/.cache/minisatm; `progress(done, total)` is called meanwhile.
    progress=None is for faces that the program itself has drawn: they are not checked.
    Raises InputError for an unknown name, a missing directory, and missing or damaged files.
    """
    check_choice("data", name, NAMES)
    if not Path(directory).is_dir():
        todo = "make it with `python -m minisatm.data.faces DIR`" if name == "faces" else "check the path"
        raise InputError(f"{shown(directory)} is not a directory, and {name} is read from one: {todo}.")
    module = import_module(".adience" if name == "faces" else f".{name}", __name__)
    options = {"labels": labels} if name in ("faces", "adience") else {}
    dataset: Dataset = module.load(directory, **options, **({"progress": progress} if name != "mnist" else {}))
    return replace(dataset, name=name)
