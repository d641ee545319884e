"""Which networks an evaluation is about, RUN[:network] or a weights file, and the test images that they share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from .. import data, models
from ..errors import InputError
from ..evaluation.matrix import Entry
from ..inputs import did_you_mean
from ..models import files
from ..models.network import Network
from ..results import tables
from . import settings as config
from .folder import RunFolder


def line_up(texts: Sequence[str]) -> tuple[list[Entry], list[Path]]:
    """The networks that RUN, RUN:satm/vgg16, RUN:vgg16, RUN:satm or x.h5 names, each once, and the run folders.

    Raises InputError for a folder that is no run or has no networks yet, an unknown network, and files without a run.
    """
    entries: list[Entry] = []
    runs: list[Path] = []
    for text in texts:
        if text.endswith(".h5"):
            entries.append(Entry(Path(text), Path(text).stem))
            continue
        place, colon, wanted = text.rpartition(":")
        if not colon or Path(text).exists():  # the colon may be part of a folder's name
            place, wanted = text, ""
        entries += _chosen(RunFolder.open(Path(place)).path, wanted)
        runs.append(Path(place))
    if not runs:
        raise InputError("a weights file has no test images: also name the run whose test images to use.")
    return _labelled(list(dict.fromkeys(entries))), list(dict.fromkeys(runs))


def _chosen(run: Path, wanted: str) -> list[Entry]:
    known = {f"{e.method}/{e.name}": e for e in _networks_of(run)}
    if not known and (run / "evaluation.txt").exists():
        raise InputError(f"{run} is an evaluation, not a run: name a folder that minisatm.train made.")
    if not known:
        raise InputError(f"{run} has no networks yet (networks/*.h5): its first phase is not finished; go on with  "
                         f"python -m minisatm.train --resume {run}")  # fmt: skip
    chosen = [entry for name, entry in known.items() if wanted in ("", entry.method, entry.name, name)]
    if not chosen:
        words = dict.fromkeys([*(e.name for e in known.values()), *(e.method for e in known.values()), *known])
        raise InputError(f"{run} has no network {wanted!r}: it has {', '.join(known)} (a method or a name alone takes "
                         f"several){did_you_mean(wanted, words)}.")  # fmt: skip
    return chosen


def _networks_of(run: Path) -> list[Entry]:
    """Every network of a run: methods in the paper's order, within one as the settings name them, the hold-out last."""
    found = [(file, *file.stem.partition("-")[::2]) for file in sorted(run.glob("networks/*-*.h5"))]
    methods = {method: k for k, method in enumerate(tables.METHODS)}
    names = {name: k for k, name in enumerate(settings_of(run).named_networks())} if found else {}
    found.sort(key=lambda f: (methods.get(f[1], len(methods)), f[1], names.get(f[2], len(names)), f[2]))
    return [Entry(file, name, method, run) for file, method, name in found]


def _labelled(entries: list[Entry]) -> list[Entry]:
    """Give each entry a unique label, with as much of the run's path as that needs."""
    for prefix in ("", "{run.name}:", "{run}:"):
        labels = [f"{prefix.format(run=e.run)}{e.method}/{e.name}" if e.run else e.name for e in entries]
        if len(set(labels)) == len(labels):
            return [replace(e, label=label) for e, label in zip(entries, labels)]
    return [replace(e, label=str(e.file)) for e in entries]


def settings_of(run: Path) -> config.Settings:
    """A run's settings, on the CPU wherever it ran."""
    return config.Settings(**{**config.read(run / "config.json"), "backend": "numpy", "tf32": False}).check()


def shared_settings(runs: Sequence[Path], data_dir: str = "") -> config.Settings:
    """The settings of the first run, if all runs keep the same test images apart from what they train on.

    data_dir: where the data set lies now, if not where the run found it.
    """
    first, *others = [replace(s, data_dir=data_dir or s.data_dir) for s in map(settings_of, runs)]
    for run, other in zip(runs[1:], others):
        for what, here in _identity(first).items():
            there = _identity(other)[what]
            if here != there:
                raise InputError(f"{runs[0]} and {run} do not share their test images ({what}: {here} and {there}): "
                                 "evaluate one after the other.")  # fmt: skip
    return first


def _identity(s: config.Settings) -> dict[str, Any]:
    """The settings that decide the test images; the seed counts where it draws the images or chooses the test part."""
    drawn, folds = s.data == "faces" and not s.data_dir, s.data in ("faces", "adience")
    place = f"{s.faces} drawn faces" if drawn else str(Path(s.data_dir).resolve())
    return dict(data=s.data, size=s.size, directory=place, labels=s.labels if folds else "",
                fold=s.fold if folds else 0, seed=s.seed if drawn or s.data == "folder" else 0)  # fmt: skip


def read_networks(entries: Sequence[Entry], dataset: data.Dataset, size: int, backend: str) -> dict[str, Network]:
    """{label: network}; an InputError for another kind of file, or a network for other images or classes."""
    networks = {}
    for entry in entries:
        definition = files.definition_of(entry.file)
        if "name" not in definition:
            raise InputError(f"{entry.file} is not a minisatm weights file: make one of it with python -m "
                             "weights_convert.")  # fmt: skip
        for what, wanted in (("classes", len(dataset.classes)), ("size", size), ("channels", dataset.channels)):
            if definition.get(what) != wanted:
                raise InputError(f"{entry.label} is a network of {what} {definition.get(what)}, the test images of "
                                 f"{dataset.name} have {what} {wanted}: leave it out, or evaluate it with a run that "
                                 "has such images.")  # fmt: skip
        networks[entry.label] = models.build(None, weights=str(entry.file)).to(backend)
    return networks
