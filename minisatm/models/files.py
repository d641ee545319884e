"""Weights in .h5 files: one data set for each dotted name, and the network's definition as an attribute."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ..backend import placed
from ..errors import InputError

Array = Any  # a network is Any here, too: network.py imports this file
FORMAT = "minisatm weights 1"
SHAPE_FIELDS = ("name", "classes", "width", "size", "channels")
LISTED = 20  # problems in an error message
FOREIGN = "is not a minisatm weights file: convert it first (python -m weights_convert), or name another file."


def save(network: Any, path: str | Path, labels: Sequence[str] = ()) -> None:
    """Write weights, buffers, definition and the labels of the classes; the file is either complete or not there."""

    def fill(file: Any) -> None:
        file.attrs["format"] = FORMAT
        file.attrs["definition"] = json.dumps(network.definition)
        if labels:
            file.attrs["labels"] = json.dumps(list(labels))
        write_arrays(file.create_group("weights"), network.state())

    write_atomically(path, fill)


def load(network: Any, path: str | Path, *, strict: bool = True, replace_top: bool = False) -> str:
    """Copy weights and buffers from a file into the network; returns a report of what was loaded and what did not fit.

    strict: raise an InputError that lists every name or shape that does not fit, and leave the network as it was.
    Otherwise load what fits. replace_top: if the file has another number of classes, the last layer keeps its random
    start.
    """
    stored, current = _finite_weights(path), network.state()
    top = [n for n in current if n.startswith(f"{network.top}.") and n in stored] if replace_top else []
    replaced = [n for n in top if stored[n].shape != current[n].shape]
    stored, wanted = ({n: a for n, a in arrays.items() if n not in replaced} for arrays in (stored, current))
    fits = {n: a for n, a in stored.items() if n in wanted and a.shape == wanted[n].shape}
    problems = [f"  missing in the file   {n} {a.shape}" for n, a in wanted.items() if n not in stored]
    problems += [f"  not in the network    {n} {a.shape}" for n, a in stored.items() if n not in wanted]
    problems += [
        f"  another shape         {n}: {a.shape} in the file, {wanted[n].shape} in the network"
        for n, a in stored.items() if n in wanted and n not in fits
    ]  # fmt: skip
    if strict and problems:
        more = [f"  ... and {len(problems) - LISTED} more"] if len(problems) > LISTED else []
        raise InputError("\n".join([
            f"{path} does not fit {network.definition['name']} ({len(problems)} names or shapes differ): build the "
            "network with the definition that the file was saved from.", *problems[:LISTED], *more,
        ]))  # fmt: skip
    network.set_state({**current, **fits})
    report = [f"{path}: {len(fits)} of {len(current)} arrays loaded", *problems]
    if replaced:
        report.append(f"  drawn at random       {', '.join(replaced)}: the file has another number of classes")
    return "\n".join(report)


def _finite_weights(path: str | Path) -> dict[str, Array]:
    """The weights and buffers in a file by name; an InputError for NaN or infinite ones."""
    with open_h5(path) as file:
        if file.attrs.get("format") != FORMAT or "weights" not in file:
            raise InputError(f"{path} {FOREIGN}")
        arrays = read_arrays(file["weights"])
    if broken := [name for name, a in arrays.items() if not np.isfinite(a).all()]:
        count = len(broken)
        raise InputError(f"{path} holds NaN or infinite weights in {broken[0]} ({count} arrays): use another file.")
    return arrays


def definition_of(path: str | Path) -> dict[str, Any]:
    """The definition of the network in a weights file: build(**definition) makes its graph."""
    with open_h5(path) as file:
        definition = json.loads(file.attrs.get("definition", "{}"))
    if not isinstance(definition, dict) or "name" not in definition:
        raise InputError(f"{path} {FOREIGN}")
    return definition


def labels_of(path: str | Path) -> list[str]:
    """The labels of the classes in a weights file; none where the file does not have one for each class."""
    classes = definition_of(path).get("classes")
    with open_h5(path) as file:
        labels = json.loads(file.attrs.get("labels", "[]"))
    return list(map(str, labels)) if isinstance(labels, list) and len(labels) == classes else []


def variant_of(path: str | Path, name: str) -> dict[str, Any]:
    """The fields of the definition in a weights file that are not its shape (eps, stride, mean ...), for build()."""
    definition = definition_of(path)
    if definition["name"] != name:
        raise InputError(f"{path} holds weights of {definition['name']}, not of {name}: name that network instead.")
    return {field: value for field, value in definition.items() if field not in SHAPE_FIELDS}


@contextmanager
def open_h5(path: str | Path) -> Iterator[Any]:
    """An .h5 file open for reading; an InputError with its name if it is missing, damaged or of another kind."""
    import h5py

    if not Path(path).is_file():
        raise InputError(f"there is no file {path}: check the path.")
    try:
        file = h5py.File(path, "r")
    except OSError as problem:
        raise InputError(
            f"{path} is not a whole .h5 file (cut short, or of another kind): copy or make it again."
        ) from problem
    with file:
        try:
            yield file
        except InputError:
            raise
        except (OSError, KeyError, ValueError, TypeError, RuntimeError) as problem:  # what h5py raises on bad bytes
            raise InputError(f"{path} is damaged or of another kind ({problem}): copy or make it again.") from problem


def write_atomically(path: str | Path, fill: Callable[[Any], None]) -> None:
    """Write an .h5 file under a temporary name and rename it, so that an interruption leaves the old file whole."""
    import h5py

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    try:
        with h5py.File(part, "w") as file:
            fill(file)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_arrays(group: Any, arrays: dict[str, Array]) -> None:
    """Write each array as a data set of the group."""
    for name, array in arrays.items():
        group.create_dataset(name, data=placed(array, "numpy"))


def read_arrays(group: Any) -> dict[str, Array]:
    """Every data set of a group, by name, as NumPy arrays."""
    arrays = {name: group[name][()] for name in group}
    for name, array in arrays.items():
        if getattr(array, "dtype", np.dtype(object)).kind not in "fiu":
            raise InputError(f"{group.file.filename} has something other than numbers in {name}: use another file.")
    return arrays
