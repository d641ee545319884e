"""Turn a published file into our .h5: choose the map, match every name, transpose every array, check every shape."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from minisatm import models
from minisatm.errors import InputError
from minisatm.models.files import FIT, FORMAT, write_atomically

from .maps import MAPS, Map, Pair
from .maps.keras_names import renamed
from .prefixes import candidates, chosen, under, without_wrappers
from .readers import WeightFile, read

Array = np.ndarray[Any, Any]
SHOWN = 20  # problems in an error message
COMPARED = 2000  # names among which the nearest is looked for: to compare two takes up to a millisecond


class Zeros(np.random.Generator):
    """A generator that returns zeros: for a network whose names and shapes matter, not its numbers."""

    def standard_normal(self, size: Any = None, dtype: Any = np.float64, out: Any = None) -> Any:
        return np.zeros(() if size is None else size, dtype)


@dataclass
class Fit:
    """A file seen through a map; score: 2 for each name that the map knows, -1 for each other."""

    map: Map
    score: int
    tensors: dict[str, Array]  # by the map's names
    left_out: list[str]  # names without the prefix that the others have
    notes: list[str]

    @property
    def classes(self) -> int | None:
        """The number of classes in the file: the length of the last layer's bias."""
        return next((self.tensors[name].size for name in self.map.top[1:] if name in self.tensors), None)


@dataclass
class Plan:
    """Which tensor of the file becomes which of our weights; all lists are in the order of our network."""

    map: Map
    definition: dict[str, Any]
    shapes: dict[str, tuple[int, ...]]  # of our weights
    tensors: dict[str, Array]  # of the file, by the map's names
    pairs: list[Pair] = field(default_factory=list)
    drawn: list[str] = field(default_factory=list)  # our weights that are drawn at random
    ignored: list[str] = field(default_factory=list)  # tensors of the file that our network does not need
    left_out: list[str] = field(default_factory=list)  # tensors beside those with the network's prefix
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def convert(
    path: Path, out: Path, *, model: str, source: str | None = None, classes: int | None = None,
    size: int | None = None, width: float = 1.0, partial: bool = False, prefix: str | None = None,
) -> list[str]:  # fmt: skip
    """Write the weights of the file `path` to `out` as our network `model`; return the report, one line per tensor.

    source: the source whose map is used; without it, the map that fits best. classes: another number of classes, for
    which the last layer is drawn at random. size: the input's side in pixels, if it is not the source's. width: below
    1 for thinner networks than the published ones. partial: weights that do not fit stay at their random start.
    prefix: the words before the names of the weights to take, where a file holds several sets of them.
    Raises InputError, and then there is no output file.
    """
    if out.exists():
        raise InputError(f"{out} already exists: choose another name, or remove it.")
    file = read(path)
    plan = plan_of(file, model, source, classes, size, width, prefix)
    if plan.problems and not partial:
        more = len(plan.problems) - SHOWN
        raise InputError("\n  ".join([
            f"{path.name} does not fit {model} of {plan.map.source} ({len(plan.problems)} names or shapes): choose the "
            "--model and --source of this file (see --list), or take what fits with --partial.",
            *plan.problems[:SHOWN], *([f"... and {more} more"] if more > 0 else []),
        ]))  # fmt: skip
    arrays = arranged(plan, path)

    def fill(h5: Any) -> None:
        h5.attrs["format"], h5.attrs["fit"] = FORMAT, FIT
        h5.attrs["definition"] = json.dumps(plan.definition)
        origin = dict(file=path.name, sha256=file.sha256, format=file.format, map=plan.map.source)
        h5.attrs["source"] = json.dumps(origin | {"variant": plan.map.variant})
        group = h5.create_group("weights")
        for name, array in arrays:
            group.create_dataset(name, data=array)

    write_atomically(out, fill)
    return report(plan, file, out)


def plan_of(
    file: WeightFile, model: str, source: str | None, classes: int | None, size: int | None, width: float = 1.0,
    prefix: str | None = None,
) -> Plan:  # fmt: skip
    """Return the plan of the map that matches the most names; of several, of the one with the file's classes."""
    maps = [m for m in MAPS if m.model == model and source in (None, m.source)]
    if not maps:
        of = f" of {source}" if source else ""
        raise InputError(f"there is no map for {model}{of}: choose one that python -m weights_convert --list shows.")
    tensors, notes = without_wrappers(file.tensors)
    if prefix:
        ends = [end for end in ("", ".", "/") if (prefix + end)[-1] in "./" and under(tensors, prefix + end)]
        if not ends:
            raise InputError(f"{file.path.name} holds no name that begins with {prefix}: give another --prefix.")
        prefix += ends[0]
    fits = [_fit(m, file, tensors, prefix) for m in maps]
    fits = [fit for fit in fits if fit.score == max(fit.score for fit in fits)]
    if fits[0].score <= 0:
        first, models_ = ", ".join(list(file.tensors)[:3]), ", ".join(sorted({m.model for m in MAPS}))
        raise InputError(
            f"{file.path.name} ({file.format}) holds no weights of {model} (its first tensors are {first}): give the "
            f"right --model, one of {models_}."
        )
    same_classes = [fit for fit in fits if fit.classes == fit.map.classes]
    if len(fits) > 1 and len(same_classes) != 1:
        known = " and ".join(f"{fit.map.source} ({fit.map.classes} classes)" for fit in fits)
        count = "no last layer" if fits[0].classes is None else f"{fits[0].classes} classes"
        raise InputError(
            f"{file.path.name} has {count} and the names of {known}, which have other means: choose with --source "
            "the one whose mean it was trained with."
        )
    plan = _plan(same_classes[0] if len(fits) > 1 else fits[0], classes, size, width)
    plan.notes[:0] = notes
    return plan


def _fit(m: Map, file: WeightFile, tensors: dict[str, Array], wanted: str | None) -> Fit:
    """Return the file seen through a map, with the prefix under which the map knows the most names."""
    thin = models.build(m.model, width=1 / 64, size=m.size, channels=m.channels, **m.variant)  # the names are the same
    pairs = list(m.pairs(thin))
    names = {pair.theirs for pair in pairs}

    def fitting(prefix: str) -> dict[str, Array]:
        inside = renamed(under(tensors, prefix), file.format, m, thin, pairs)
        return {name: inside[name] for name in inside if name in names}

    counts = {p: len(fitting(p)) for p in candidates(tensors, max(1, len(pairs) // 4))}
    prefix = chosen(tensors, counts, wanted, fitting)
    rivals = [p for p, count in counts.items() if p and not prefix and count == counts[prefix]]
    left_out = [n for n in tensors if not n.startswith(prefix) or any(n.startswith(rival) for rival in rivals)]
    inside = renamed(under({n: tensors[n] for n in tensors if n not in set(left_out)}, prefix), file.format, m, thin,
                     pairs)  # fmt: skip
    notes = [f'the prefix "{prefix}" was removed from the names'] if prefix else []
    known = len(names & set(inside))
    return Fit(m, 2 * known - (len(inside) - known), inside, left_out, notes)


def _plan(fit: Fit, classes: int | None, size: int | None, width: float) -> Plan:
    m, tensors, published = fit.map, fit.tensors, fit.classes
    network = models.build(
        m.model, classes=classes or published or m.classes, width=width, size=size or m.size, channels=m.channels,
        rng=Zeros(np.random.PCG64()), **m.variant,
    )  # fmt: skip
    pairs = list(m.pairs(network))
    shapes = {name: array.shape for name, array in network.state().items()}
    plan = Plan(m, network.definition, shapes, tensors, left_out=fit.left_out, notes=list(fit.notes))
    if published not in (None, m.classes):
        plan.notes.append(
            f"the file has {published} classes, the published one {m.classes}: the mean of {m.source} is assumed"
        )
    top = {f"{network.top}.weight", f"{network.top}.bias"}
    no_top = not any(name in tensors for name in m.top)
    new_top = no_top or (None not in (classes, published) and classes != published)
    names = {pair.theirs for pair in pairs}
    used, unknown = names & set(tensors), [name for name in tensors if name not in names]
    for pair in pairs:
        missing = pair.theirs not in tensors
        if (pair.ours in top and new_top) or (missing and no_top and pair.ours.partition(".")[0] in m.head):
            plan.drawn.append(pair.ours)
        elif missing:
            near = _nearest(pair.theirs, unknown) if len(plan.problems) < SHOWN else ""
            plan.problems.append(f"missing in the file: {pair.theirs}{near}, for {pair.ours}")
        elif (shape := _arranged_shape(tensors[pair.theirs], pair, shapes[pair.ours])) != shapes[pair.ours]:
            plan.problems.append(
                f"another shape: {pair.theirs} {tensors[pair.theirs].shape} gives {shape}, {pair.ours} has "
                f"{shapes[pair.ours]}"
            )
        else:
            plan.pairs.append(pair)
    for name in tensors:
        if any(re.fullmatch(pattern, name) for pattern in m.ignored):
            plan.ignored.append(name)
        elif name not in used:
            near = _nearest(name, names - used) if len(plan.problems) < SHOWN else ""
            plan.problems.append(f"not in the map: {name} {tensors[name].shape}{near}")
    forgotten = set(shapes) - {pair.ours for pair in pairs}
    assert not forgotten, f"the map of {m.source} forgets {sorted(forgotten)[:3]} of {m.model}"
    return plan


def _nearest(name: str, others: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, sorted(others)[:COMPARED], 1)
    return f" (nearest: {near[0]})" if near else ""


def arrange(array: Array, pair: Pair, shape: tuple[int, ...]) -> Array:
    """Return a tensor in our layout, channels last; vectors and old Caffe blobs lose their axes of length one."""
    if len(shape) == 1 and array.size == max(array.shape, default=1):
        return array.reshape(-1)
    if pair.layout == "OIHW->HWIO" and array.ndim == 4:
        return array.transpose(2, 3, 1, 0)
    if pair.layout in ("OI->IO", "O(CHW)->(HWC)O"):
        array = array.reshape(array.shape[-2:]) if array.ndim > 2 and array.size == np.prod(array.shape[-2:]) else array
        if pair.layout == "OI->IO" and array.ndim == 2:
            return array.T
        if pair.chw is not None and array.ndim == 2 and array.shape[1] == np.prod(pair.chw):
            turned = array.reshape(len(array), *pair.chw).transpose(2, 3, 1, 0)  # (O, C, H, W) -> (H, W, C, O)
            return turned.reshape(-1, len(array))
    return array


def _arranged_shape(array: Array, pair: Pair, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of arrange()'s result, without copying the numbers."""
    result: tuple[int, ...] = arrange(np.broadcast_to(np.float32(0), array.shape), pair, shape).shape
    return result


def arranged(plan: Plan, path: Path) -> Iterator[tuple[str, Array]]:
    """Yield (our name, array) one after the other, so that only one array is in memory twice; NaN is an error."""
    theirs = {pair.ours: pair for pair in plan.pairs}
    missing = [name for name in plan.shapes if name not in theirs and name not in plan.drawn]
    start = models.build(**plan.definition, rng=0).state() if missing else {}
    rng = np.random.default_rng(0)
    for name, shape in plan.shapes.items():
        if name in theirs:
            array = arrange(plan.tensors[theirs[name].theirs], theirs[name], shape).astype(np.float32, copy=False)
            if not np.isfinite(array).all():
                raise InputError(f"{path.name} holds NaN or infinity in {theirs[name].theirs}: use another file.")
        elif name in start:
            array = start[name]
        else:
            array = (0.01 * rng.standard_normal(shape) if len(shape) > 1 else np.zeros(shape)).astype(np.float32)
        yield name, array


def report(plan: Plan, file: WeightFile, out: Path) -> list[str]:
    """Return a line for each tensor of the file and what it became, then what was ignored, left and drawn at random."""
    lines = _table([
        ("in the file", "shape", "becomes", "shape", "layout"),
        *((p.theirs, _shape(plan.tensors[p.theirs].shape), p.ours, _shape(plan.shapes[p.ours]), p.layout)
          for p in plan.pairs),
    ])  # fmt: skip
    lines += [f"ignored: {name} {_shape(plan.tensors[name].shape)}" for name in plan.ignored]
    lines += [f"left at its random start: {problem}" for problem in plan.problems]
    lines += [f"drawn at random: {name} {_shape(plan.shapes[name])}, N(0, 0.01^2) or zero" for name in plan.drawn]
    lines += [f"left out, beside the network: {names}" for names in _groups(plan.left_out)]
    lines += [*file.notes, *plan.notes]
    count = sum(int(np.prod(plan.shapes[pair.ours])) for pair in plan.pairs)
    lines.append(
        f"{out}: {plan.map.model} of {plan.map.source}, {len(plan.pairs)} of {len(plan.shapes)} arrays from "
        f"{file.format} ({count:,} numbers)" + (f"; this map was {proof(plan.map)}" if not plan.map.tried else "")
    )
    return lines


def _groups(names: list[str]) -> list[str]:
    """Return "ema. (320 tensors)" for each first word of these names, or the name alone."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(re.split(r"(?<=[./])", name, maxsplit=1)[0], []).append(name)
    return [members[0] if len(members) == 1 else f"{first} ({len(members)} tensors)"
            for first, members in groups.items()]  # fmt: skip


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "scalar"


def _table(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]


def listing(maps: Iterable[Map] = MAPS) -> list[str]:
    """Return a table of the known files: source, --model, input, classes, public name, size, and how it was tested."""
    return _table([
        ("source", "--model", "input", "classes", "file", "size", "tested"),
        *((m.source, m.model, f"{m.size}x{m.size}x{m.channels}", str(m.classes), name, size, proof(m))
          for m in maps for name, size in m.files),
    ])  # fmt: skip


def proof(m: Map) -> str:
    """Return how a map was tested."""
    if m.tried:
        return "tried on the real file"
    return "not tried on the real file" + (f", but compared with {m.compared}" if m.compared else "")


__all__ = ["Plan", "convert", "listing", "plan_of"]
