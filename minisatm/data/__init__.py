"""Data sets that are read when asked for, and the batches cut from them."""

from dataclasses import replace
from importlib import import_module
from pathlib import Path

from ..errors import InputError
from .batches import Batches
from .dataset import Dataset, Split

NAMES = ("faces", "adience", "mnist", "folder")

__all__ = ["NAMES", "Batches", "Dataset", "Split", "load"]


def load(name, directory, *, labels="strict"):
    """Read the data set `name` (faces, adience, mnist or folder) from a directory as a Dataset.

    `labels` (strict, strict+fix or mapped) says which of Adience's labels count. Raises InputError for an unknown name,
    a directory that is missing, and data that is not as it should be.
    """
    if name not in NAMES:
        raise InputError(f"data {name!r} is not known: choose {', '.join(NAMES)}")
    if not Path(directory).is_dir():
        made = ": make it with `python -m minisatm.data.faces DIR`" if name == "faces" else ": check the path"
        raise InputError(f"{directory} is not a directory, and {name} is read from one{made}")
    if name in ("faces", "adience"):
        adience = import_module(".adience", __name__)
        dataset = adience.load(directory, labels=labels)
        return dataset if name == "adience" else replace(dataset, name=name)
    return import_module(f".{name}", __name__).load(directory)
