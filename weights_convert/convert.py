"""From a source's tensors to our weights: choose the map, match every name, turn every array, check every shape."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from minisatm import models
from minisatm.errors import InputError
from minisatm.models import Network
from minisatm.models.files import FORMAT, write_atomically

from .maps import MAPS, Map, Pair
from .readers import Source, read

Array = np.ndarray[Any, Any]
CLASSES_OF_KERAS = {  # Keras 3 numbers its layers by class, and their arrays in this order
    "conv2d": ("kernel", "bias"),
    "dense": ("kernel", "bias"),
    "batch_normalization": ("gamma", "beta", "moving_mean", "moving_variance"),
}
KERAS_1 = {  # the variance was called running_std
    "W": "kernel", "b": "bias", "gamma": "gamma", "beta": "beta", "running_mean": "moving_mean",
    "running_std": "moving_variance",
}  # fmt: skip


class Zeros(np.random.Generator):
    """Draws nothing: for a network of which only names and shapes are wanted."""

    def standard_normal(self, size: Any = None, dtype: Any = np.float64, out: Any = None) -> Any:
        return np.zeros(() if size is None else size, dtype)


@dataclass
class Plan:
    """What goes where: rows in the order of our network."""

    map: Map
    definition: dict[str, Any]
    shapes: dict[str, tuple[int, ...]]  # ours
    tensors: dict[str, Array]  # theirs, by the map's names
    pairs: list[Pair]
    drawn: list[str]  # ours that are drawn at random
    ignored: list[str]  # theirs that have no place
    problems: list[str]


def convert(
    path: Path, out: Path, *, model: str, source: str | None = None, classes: int | None = None,
    size: int | None = None, width: float = 1.0, partial: bool = False,
) -> list[str]:  # fmt: skip
    """Write the weights of `path` to `out` as our network `model`; returns the report, a line each.

    source: which map to take, if not the one that fits best. classes: another number of them gets a last layer drawn at
    random. size: the input's side, if not the source's own. width: of a thinner network than the published ones.
    partial: what does not match is left as it is.
    Raises InputError, and then there is no output file.
    """
    if out.exists():
        raise InputError(f"{out} already exists: choose another name, or remove it.")
    found = read(path)
    plan = plan_of(found, model, source, classes, size, width)
    if plan.problems and not partial:
        raise InputError("\n  ".join([
            f"{path.name} does not fit {model} of {plan.map.source} ({len(plan.problems)} names or shapes): name its "
            "own --model and --source (--list), or take what fits with --partial.",
            *plan.problems[:20], *([f"... and {len(plan.problems) - 20} more"] if len(plan.problems) > 20 else []),
        ]))  # fmt: skip
    arrays = arranged(plan, path)

    def fill(file: Any) -> None:
        file.attrs["format"] = FORMAT
        file.attrs["definition"] = json.dumps(plan.definition)
        origin = dict(file=path.name, sha256=found.sha256, format=found.format, map=plan.map.source)
        file.attrs["source"] = json.dumps(origin | {"variant": plan.map.variant})
        group = file.create_group("weights")
        for name, array in arrays:
            group.create_dataset(name, data=array)

    write_atomically(out, fill)
    return report(plan, found, out)


# --- planning -----------------------------------------------------------------------------------------------------


def plan_of(
    found: Source, model: str, source: str | None, classes: int | None, size: int | None, width: float = 1.0
) -> Plan:
    """The plan of the map that matches most."""
    known = [m for m in MAPS if m.model == model and source in (None, m.source)]
    if not known:
        of = f" of {source}" if source else ""
        raise InputError(f"no map for {model}{of}: python -m weights_convert --list shows what is known.")
    named = [(m, *_named(m, found)) for m in known]
    m, matches, tensors = max(named, key=lambda candidate: candidate[1])
    if matches <= 0:
        names = ", ".join(list(found.tensors)[:3])
        raise InputError(
            f"{found.path.name} ({found.format}) holds nothing of {model}: its tensors are called {names} ...; name "
            f"the --model that it belongs to, one of {', '.join(sorted({m.model for m in MAPS}))}."
        )
    return _plan(m, tensors, classes, size, width)


def _named(m: Map, found: Source) -> tuple[int, dict[str, Array]]:
    """How many tensors of the file the map knows, less half of those it does not; and the file by the map's names.

    A thin network has the same names as the whole one.
    """
    thin = models.build(m.model, width=1 / 64, size=m.size, channels=m.channels, **m.variant)
    pairs, tensors = [Pair(*pair) for pair in m.pairs(thin)], dict(found.tensors)
    if found.format == "Keras 3 weights":
        tensors = _by_layer(tensors, m, thin, pairs)
    elif found.format.startswith("Keras"):
        tensors = _from_zero({_of_keras_1(name): array for name, array in tensors.items()})
    known = {pair.theirs for pair in pairs} & set(tensors)
    return 2 * len(known) - len(set(tensors) - known), tensors


def _plan(m: Map, tensors: dict[str, Array], classes: int | None, size: int | None, width: float) -> Plan:
    own = next((tensors[name].size for name in m.top[1:] if name in tensors), None)
    network = models.build(
        m.model, classes=classes or own or m.classes, width=width, size=size or m.size, channels=m.channels,
        rng=Zeros(np.random.PCG64()), **m.variant,
    )  # fmt: skip
    pairs = [Pair(*pair) for pair in m.pairs(network)]
    shapes = {name: array.shape for name, array in network.state().items()}
    plan = Plan(m, network.definition, shapes, tensors, [], [], [], [])
    top = {f"{network.top}.weight", f"{network.top}.bias"}
    replaced = classes is not None and own is not None and classes != own
    without = not any(name in tensors for name in m.top)
    named, taken = {pair.theirs for pair in pairs}, set()
    for pair in pairs:
        if pair.theirs in tensors:
            taken.add(pair.theirs)
        head = without and pair.ours.partition(".")[0] in m.head and pair.theirs not in tensors
        if head or (pair.ours in top and (replaced or without)):
            plan.drawn.append(pair.ours)
        elif pair.theirs not in tensors:
            near = _nearest(pair.theirs, set(tensors) - named)
            plan.problems.append(f"missing in the file: {pair.theirs}{near}, for {pair.ours}")
        elif (shape := _turned(tensors[pair.theirs], pair, shapes[pair.ours])) != shapes[pair.ours]:
            plan.problems.append(
                f"another shape: {pair.theirs} {tensors[pair.theirs].shape} gives {shape}, {pair.ours} has "
                f"{shapes[pair.ours]}"
            )
        else:
            plan.pairs.append(pair)
    for name in tensors:
        if any(re.fullmatch(pattern, name) for pattern in m.ignored):
            plan.ignored.append(name)
        elif name not in taken:
            plan.problems.append(f"not in the map: {name} {tensors[name].shape}{_nearest(name, named - taken)}")
    forgotten = set(shapes) - {pair.ours for pair in pairs}
    assert not forgotten, f"the map of {m.source} forgets {sorted(forgotten)[:3]} of {m.model}"
    return plan


def _nearest(name: str, others: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(others), 1)
    return f" (nearest: {near[0]})" if near else ""


def _of_keras_1(name: str) -> str:
    """The first published files have "block1_conv1/block1_conv1_W_1" for what is "block1_conv1/kernel" since."""
    found = re.fullmatch(rf"(.+)/(?:.*/)?\1_({'|'.join(KERAS_1)})(?:_\d+)?", name)
    return f"{found[1]}/{KERAS_1[found[2]]}" if found else name


def _from_zero(tensors: dict[str, Array]) -> dict[str, Array]:
    """Keras numbers unnamed layers on through a session (conv2d_95 ...): here each class begins at conv2d."""
    numbered = re.compile(r"(conv2d|batch_normalization|dense|activation)(?:_(\d+))?/(.*)")
    first: dict[str, int] = {}
    parts = {name: numbered.fullmatch(name) for name in tensors}
    for found in filter(None, parts.values()):
        first[found[1]] = min(first.get(found[1], 10**9), int(found[2] or 0))

    def renamed(name: str) -> str:
        found = parts[name]
        if found is None:
            return name
        number = int(found[2] or 0) - first[found[1]]
        return f"{found[1]}{f'_{number}' if number else ''}/{found[3]}"

    return {renamed(name): array for name, array in tensors.items()}


def _by_layer(tensors: dict[str, Array], m: Map, network: Network, pairs: list[Pair]) -> dict[str, Array]:
    """Names by layer in place of those by class and number ("conv2d_1/0"): the model's order tells which is which."""
    words: dict[str, list[str]] = {}
    for pair in pairs:
        layer, _, word = pair.theirs.rpartition("/")
        words.setdefault(layer, []).append(word)
    dense = {pair.theirs.rpartition("/")[0] for pair in pairs if pair.theirs.endswith("/kernel")
             and len(network.state()[pair.ours].shape) == 2}  # fmt: skip
    counts: dict[str, int] = {}
    found = dict(tensors)
    for layer in m.order(network) if m.order else ():
        kind = "batch_normalization" if "moving_mean" in words[layer] else "dense" if layer in dense else "conv2d"
        number = counts.get(kind, 0)
        counts[kind] = number + 1
        place = f"{kind}_{number}" if number else kind
        for k, word in enumerate(w for w in CLASSES_OF_KERAS[kind] if w in words[layer]):
            if f"{place}/{k}" in found:
                found[f"{layer}/{word}"] = found.pop(f"{place}/{k}")
    return found


# --- arrays -------------------------------------------------------------------------------------------------------


def arrange(array: Array, pair: Pair, shape: tuple[int, ...]) -> Array:
    """A tensor as ours lies: channels last. Vectors and old Caffe blobs lose their axes of one."""
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


def _turned(array: Array, pair: Pair, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that arrange() gives, without touching a number."""
    return arrange(np.broadcast_to(np.float32(0), array.shape), pair, shape).shape


def arranged(plan: Plan, path: Path) -> Iterable[tuple[str, Array]]:
    """(our name, array) one after the other, so that only one is held twice; NaN is an error."""
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


# --- report -------------------------------------------------------------------------------------------------------


def report(plan: Plan, found: Source, out: Path) -> list[str]:
    """Every tensor of the source with its destination, shapes and layout; then what was drawn and what was ignored."""
    rows = [("in the file", "shape", "becomes", "shape", "layout")]
    for pair in plan.pairs:
        rows.append((pair.theirs, _shape(plan.tensors[pair.theirs].shape), pair.ours, _shape(plan.shapes[pair.ours]),
                     pair.layout))  # fmt: skip
    widths = [max(len(row[k]) for row in rows) for k in range(5)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
    lines += [f"ignored: {name} {_shape(plan.tensors[name].shape)}" for name in plan.ignored]
    lines += [f"left as it is: {problem}" for problem in plan.problems]
    lines += [f"drawn at random: {name} {_shape(plan.shapes[name])}, N(0, 0.01^2) or zero" for name in plan.drawn]
    lines += list(found.notes)
    count = sum(int(np.prod(plan.shapes[pair.ours])) for pair in plan.pairs)
    lines.append(
        f"{out}: {plan.map.model} of {plan.map.source}, {len(plan.pairs)} of {len(plan.shapes)} arrays from "
        f"{found.format} ({count:,} numbers)" + (f"; this map was {proof(plan.map)}" if not plan.map.tried else "")
    )
    return lines


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "scalar"


def listing(maps: Iterable[Map] = MAPS) -> list[str]:
    """What is known: source, model, public names of the files and their sizes."""
    rows = [
        (m.source, m.model, f"{m.size}x{m.size}x{m.channels}", str(m.classes), name, size, proof(m))
        for m in maps for name, size in m.files
    ]  # fmt: skip
    rows.insert(0, ("source", "--model", "input", "classes", "file", "size", ""))
    widths = [max(len(row[k]) for row in rows) for k in range(7)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]


def proof(m: Map) -> str:
    """What a map was held against."""
    if m.tried:
        return "tried on the real file"
    return "not tried on the real file" + (f", but compared with {m.compared}" if m.compared else "")


__all__ = ["Plan", "convert", "listing", "plan_of"]
