"""Weights in .h5 files: one data set for each dotted name, and the network's definition as an attribute."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..backend import placed
from ..errors import InputError
from . import definition as definitions

Array = Any  # a network is Any here, too: network.py imports this file
FORMAT = "minisatm weights 1"
FIT = "squash"  # how an image of any shape becomes a network's square: data.pixels.fit, in training and afterwards
SHAPE_FIELDS = ("name", "classes", "width", "size", "channels")
LISTED = 20  # problems in an error message
FOREIGN = "is not a minisatm weights file: convert it first (python -m weights_convert), or name another file."


def save(network: Any, path: str | Path, labels: Sequence[str] = ()) -> None:
    """Write weights, buffers, definition and the labels of the classes; the file is either complete or not there."""

    def fill(file: Any) -> None:
        file.attrs["format"], file.attrs["fit"] = FORMAT, FIT
        file.attrs["definition"] = json.dumps(network.definition)
        if labels:
            file.attrs["labels"] = json.dumps(list(labels))
        write_arrays(file.create_group("weights"), network.state())

    write_atomically(path, fill)


def load(
    network: Any, path: str | Path, *, strict: bool = True, replace_top: bool = False, asked: Iterable[str] = ()
) -> str:
    """Copy weights and buffers from a file into the network; returns a report of what was loaded and what did not fit.

    strict: raise an InputError that lists every name or shape that does not fit and every field of the definition with
    which the network computes something else (bgr, mean, eps ...), and leave the network as it was. Otherwise load what
    fits. What only training or rounding reads may differ: dropout, momentum, unbiased, zero_gamma, zero_residual and
    exact. asked: fields that may differ, too. replace_top: if the file has another number of classes, the last layer
    keeps its random start.
    """
    current, (stored, arrays) = network.state(), _finite_weights(path, network)
    top = [n for n in current if n.startswith(f"{network.top}.") and n in stored] if replace_top else []
    replaced = [n for n in top if stored[n].shape != current[n].shape]
    stored, wanted = ({n: a for n, a in shapes.items() if n not in replaced} for shapes in (stored, current))
    fits = {n: a for n, a in arrays.items() if n in wanted}
    differ = _differences(network, definition_of(path), asked)
    problems = [f"  missing in the file   {n} {a.shape}" for n, a in wanted.items() if n not in stored]
    problems += [f"  not in the network    {n} {a.shape}" for n, a in stored.items() if n not in wanted]
    problems += [
        f"  another shape         {n}: {a.shape} in the file, {wanted[n].shape} in the network"
        for n, a in stored.items() if n in wanted and n not in fits
    ]  # fmt: skip
    if strict and differ and not problems:
        raise InputError("\n".join([
            f"{path} was saved from a network that computes something else than this {network.definition['name']}: "
            "build the network with weights=file (models.build), or load what fits with strict=False.", *differ,
        ]))  # fmt: skip
    problems += differ
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


def _differences(network: Any, stored: dict[str, Any], asked: Iterable[str]) -> list[str]:
    """The fields in which the file's network computes something else, as lines."""
    if stored["name"] != network.definition["name"]:
        return [f"  another name          {stored['name']} in the file, {network.definition['name']} in the network"]
    ours, theirs = network.complete(network.definition), network.complete(stored)
    return definitions.differences(*({f: v for f, v in d.items() if f not in asked} for d in (ours, theirs)))


class _Shape(NamedTuple):
    shape: tuple[int, ...]


def count_numbers(path: str | Path) -> int:
    """How many numbers the arrays in a weights file have together; nothing is read."""
    with open_h5(path) as file:
        return sum(int(_dataset(_weights(file), name).size) for name in _weights(file))


def _weights(file: Any) -> Any:
    """The group of arrays in an .h5 file of ours."""
    if file.attrs.get("format") != FORMAT or "weights" not in file:
        raise InputError(f"{file.filename} {FOREIGN}")
    return _inside(file, "weights")


def _finite_weights(path: str | Path, network: Any) -> tuple[dict[str, _Shape], dict[str, Array]]:
    """The shape of each array in a file, and the arrays that fit into the network: no larger one is ever read.

    An InputError for NaN and infinite numbers.
    """
    with open_h5(path) as file:
        group = _weights(file)
        shapes = {name: _Shape(_dataset(group, name).shape) for name in group}
        fit = [n for n, a in network.state().items() if n in shapes and shapes[n].shape == a.shape]
        arrays = read_arrays(group, fit)
    if broken := [name for name, a in arrays.items() if not np.isfinite(a).all()]:
        count = len(broken)
        raise InputError(f"{path} holds NaN or infinite weights in {broken[0]} ({count} arrays): use another file.")
    return shapes, arrays


def definition_of(path: str | Path) -> dict[str, Any]:
    """The definition of the network in a weights file: build(**definition) makes its graph."""
    with open_h5(path) as file:
        definition = json.loads(file.attrs.get("definition", "{}"))
    if not isinstance(definition, dict) or "name" not in definition:
        raise InputError(f"{path} {FOREIGN}")
    definitions.checked(definition, f"{path} is damaged, its network has")
    return definition


def labels_of(path: str | Path) -> list[str]:
    """The labels of the classes in a weights file; none where the file does not have one for each class."""
    classes = definition_of(path).get("classes")
    with open_h5(path) as file:
        labels = json.loads(file.attrs.get("labels", "[]"))
    return list(map(str, labels)) if isinstance(labels, list) and len(labels) == classes else []


def check_fit(path: str | Path) -> None:
    """Raise an InputError for a weights file whose network needs images that are made square in another way."""
    with open_h5(path) as file:
        fit = str(file.attrs.get("fit", FIT))
    if fit != FIT:
        raise InputError(f"{path} is for images made square by {fit[:40]!r}, and minisatm knows {FIT!r}: convert the "
                         "weights again, or train them again.")  # fmt: skip


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

    try:
        if not Path(path).exists():
            raise InputError(f"there is no file {path}: check the path.")
        if not Path(path).is_file():
            kind = "a folder" if Path(path).is_dir() else "no ordinary file"
            raise InputError(f"{path} is {kind}: name an .h5 file.")
        with open(path, "rb") as plain:
            plain.read(1)
    except OSError as problem:
        what = f"{path} cannot be read ({problem.strerror or problem})"
        raise InputError(f"{what}: check its permissions and its disk.") from problem
    try:
        file = h5py.File(path, "r")
    except OSError as problem:
        if "unable to lock file" in str(problem) or "already open" in str(problem):
            raise InputError(
                f"{path} is locked, another program is writing it: wait until that has ended (on a disk without locks "
                "set HDF5_USE_FILE_LOCKING=FALSE)."
            ) from problem
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
        if "/" in name:
            raise InputError(f"the weight {name} cannot be saved: its name must not have a slash.")
        group.create_dataset(name, data=placed(array, "numpy"))


def read_arrays(group: Any, names: Iterable[str] | None = None) -> dict[str, Array]:
    """Every data set of a group (or those of these names), by name, as NumPy arrays."""
    return {name: _dataset(group, name)[()] for name in (group if names is None else names)}


def _dataset(group: Any, name: str) -> Any:
    """A data set of numbers; an InputError for anything else."""
    dataset, path = _inside(group, name), group.file.filename
    if getattr(dataset, "dtype", np.dtype(object)).kind not in "fiu" or dataset.shape is None:
        raise InputError(f"{path} has something other than numbers in {name}: use another file.")
    if dataset.external or dataset.is_virtual or (dataset.size and not dataset.id.get_storage_size()):
        raise InputError(f"{path} does not hold the numbers of {name} itself: use another file.")
    return dataset


def _inside(group: Any, name: str) -> Any:
    """group[name]; an InputError for a link to another place or another file."""
    import h5py

    if not isinstance(group.get(name, getlink=True), h5py.HardLink):
        raise InputError(f"{group.file.filename} has a link in place of {name}: use a file that holds all its arrays.")
    return group[name]
