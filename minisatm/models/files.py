"""Weights in .h5 files: one data set per dotted name, and the network's definition as an attribute."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..backend import placed
from ..errors import InputError

if TYPE_CHECKING:
    from .network import Network

FORMAT = "minisatm weights 1"
SHAPE_FIELDS = ("name", "classes", "width", "size", "channels")


def save(network: Network, path: str | Path) -> None:
    """Write weights, buffers and definition; the file appears whole or not at all."""

    def fill(file: Any) -> None:
        file.attrs["format"] = FORMAT
        file.attrs["definition"] = json.dumps(network.definition)
        write_arrays(file.create_group("weights"), network.state())

    write_atomically(path, fill)


def load(network: Network, path: str | Path, *, strict: bool = True, replace_top: bool = False) -> str:
    """Read weights and buffers into the network; returns a report of what was loaded and what did not fit.

    strict: any name or shape that does not fit is an InputError that lists them all, and the network is left as it was.
    Otherwise what fits is loaded. replace_top: a last layer for another number of classes stays at its random start.
    """
    with open_h5(path) as file:
        if file.attrs.get("format") != FORMAT or "weights" not in file:
            raise InputError(
                f"{path} is not a minisatm weights file: convert it first, or name one that network.save wrote."
            )
        found = read_arrays(file["weights"])
    own = network.state()
    broken = [name for name, a in found.items() if not np.isfinite(a).all()]
    if broken:
        raise InputError(
            f"{path} holds NaN or infinite weights in {broken[0]} ({len(broken)} arrays): use another file."
        )
    replaced = [n for n in own if n.startswith(network.top + ".") and n in found and found[n].shape != own[n].shape]
    if replace_top:
        found = {n: a for n, a in found.items() if n not in replaced}
    problems = [
        f"missing in the file   {n} {own[n].shape}"
        for n in own
        if n not in found and not (replace_top and n in replaced)
    ]
    problems += [f"not in the network    {n} {a.shape}" for n, a in found.items() if n not in own]
    fits = {n: a for n, a in found.items() if n in own and a.shape == own[n].shape}
    problems += [
        f"another shape         {n}: {a.shape} in the file, {own[n].shape} in the network"
        for n, a in found.items()
        if n in own and a.shape != own[n].shape
    ]
    report = "\n".join([f"{path}: {len(fits)} of {len(own)} arrays loaded", *(f"  {p}" for p in problems)])
    if replace_top and replaced:
        report += f"\n  drawn at random       {', '.join(replaced)}: the file has another number of classes"
    if strict and problems:
        raise InputError(
            f"{path} does not fit {network.definition['name']} ({len(problems)} names or shapes differ): build the "
            "network with the definition that the file was saved from.\n" + "\n".join(f"  {p}" for p in problems[:20])
            + (f"\n  ... and {len(problems) - 20} more" if len(problems) > 20 else "")
        )  # fmt: skip
    network.set_state({**own, **fits})
    return report


def definition_of(path: str | Path) -> dict[str, Any]:
    """The definition of the network in a weights file: build(**definition) makes its graph."""
    with open_h5(path) as file:
        definition = json.loads(file.attrs.get("definition", "{}"))
    if not isinstance(definition, dict):
        raise InputError(f"{path} holds no network definition: copy or make it again.")
    return definition


def variant_of(path: str | Path, name: str) -> dict[str, Any]:
    """The fields of the definition in a weights file that are not its shape (eps, stride, mean ...), for build()."""
    definition = definition_of(path)
    if definition.get("name", name) != name:
        raise InputError(f"{path} holds weights of {definition['name']}, not of {name}: name that network instead.")
    return {field: value for field, value in definition.items() if field not in SHAPE_FIELDS}


@contextmanager
def open_h5(path: str | Path) -> Iterator[Any]:
    """An .h5 file open for reading; an InputError names it when it is missing, cut, damaged or something else."""
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
    """Create an .h5 file through a temporary neighbour, so that an interruption leaves the old file whole."""
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


def write_arrays(group: Any, arrays: dict[str, Any]) -> None:
    for name, array in arrays.items():
        group.create_dataset(name, data=placed(array, "numpy"))


def read_arrays(group: Any) -> dict[str, np.ndarray]:
    """Every data set of a group, by name."""
    arrays = {name: group[name][()] for name in group}
    for name, array in arrays.items():
        if getattr(array, "dtype", np.dtype(object)).kind not in "fiu":
            raise InputError(f"{group.file.filename} holds no numbers in {name}: copy or make it again.")
    return arrays
