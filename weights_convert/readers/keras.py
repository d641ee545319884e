"""Keras's files: the .h5 of Keras 1 and 2, the .weights.h5 of Keras 3, and its .keras, which is a zip around one."""

from __future__ import annotations

import json
import math
import re
import tempfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from minisatm.errors import InputError

from .checks import LONGEST_JSON, MOST_TENSORS, Budget, Read, add, bfloat16, check_name, damaged, open_zip, shown
from .keras_layout import as_tensorflow, parsed

SAFE_FILTERS = {1, 2, 3, 4, 32000}  # gzip, shuffle, Fletcher's sum, szip, lzf; others load a plug-in, which is code
DEEPEST = 32  # groups in each other; one that holds itself has no end
LARGEST_ATTRIBUTE = 2**20  # bytes; HDF5's own limit is 64 KiB


def read_h5(path: Path) -> Read:
    with h5py.File(path, "r") as file:
        group = inside(path, file, "model_weights") if linked(file, "model_weights") else file
        if "layer_names" in group.attrs or "layer_names0" in group.attrs:
            return "Keras 2 HDF5", *by_layer_names(path, file, group)
        if linked(file, "layers") or linked(file, "vars"):
            return "Keras 3 weights", Keras3(path).read(file, {}), ["Keras 3, which numbers the layers of each class"]
        if "minisatm" in str(file.attrs.get("format")):
            raise InputError(f"{path} is already a file of minisatm: use it as it is.")
        raise unknown(path, file)


def read_archive(path: Path) -> Read:
    """Read the .h5 in the zip through a temporary file: HDF5 reads in any order, which is slow inside a zip."""
    notes = []
    with open_zip(path) as archive, tempfile.TemporaryFile() as copy:
        if archive.getinfo("config.json").file_size > LONGEST_JSON:
            raise damaged(path, f"a config.json of {archive.getinfo('config.json').file_size} bytes")
        whole = json.loads(archive.read("config.json"))
        config = whole["config"]
        if "metadata.json" in archive.namelist():
            notes.append(f"Keras {shown(json.loads(archive.read('metadata.json'))['keras_version'])}")
        if "layers" in config:
            notes.append("the names and the order of the layers are known")
        with archive.open("model.weights.h5") as member:
            while piece := member.read(2**20):
                copy.write(piece)
        with h5py.File(copy, "r") as file:
            if not linked(file, "layers") and not linked(file, "vars"):
                raise unknown(path, file)
            tensors, changes = as_tensorflow(path, Keras3(path).read(file, config), "", "3", whole)
            return "Keras 3 archive", tensors, notes + changes


def unknown(path: Path, file: Any) -> InputError:
    if linked(file, "_layer_checkpoint_dependencies"):
        return InputError(f"{path} has a format of Keras 2.13 or older that is not read: save it there as .h5.")
    return InputError(f"{path} is an .h5 file, but not one with weights that Keras wrote: give one that it did.")


def by_layer_names(path: Path, file: Any, group: Any) -> tuple[dict[str, np.ndarray], list[str]]:
    """Return tensors and notes of Keras 1 and 2, which have a group for each layer and the names in attributes."""
    tensors: dict[str, np.ndarray] = {}
    budget = Budget(path)
    layers = strings(path, group, "layer_names")
    if len(set(layers)) != len(layers):
        raise damaged(path, "two layers with one name")
    count = len(layers)
    for layer in layers:
        names = strings(path, inside(path, group, layer), "weight_names")
        count += len(names)
        if count > MOST_TENSORS:
            raise InputError(f"{path} holds more than {MOST_TENSORS} names: give a file with one network's weights.")
        for name, last in zip(names, short(layer, names)):
            array = array_of(path, name, inside(path, group, f"{layer}/{name}"), budget)
            add(path, tensors, f"{layer}/{last}", array)
    said = {key: text_in(path, (group, file), key) for key in ("backend", "keras_version", "model_config")}
    config = parsed(said["model_config"])
    if not said["backend"] and isinstance(config, dict):
        said["backend"] = str(config.get("backend", ""))
    changed, notes = as_tensorflow(path, tensors, said["backend"].lower(), said["keras_version"], config)
    return {name: np.ascontiguousarray(array) for name, array in changed.items()}, notes


def short(layer: str, names: list[str]) -> list[str]:
    """Return kernel for conv1/conv1/kernel:0; a layer that is a model has many kernels and keeps its layers' names."""
    last = [name.rsplit("/", 1)[-1] for name in names]
    if len(set(last)) != len(names):
        last = [name.removeprefix(layer + "/") for name in names]
    return [name.removesuffix(":0") for name in last]


def text_in(path: Path, groups: tuple[Any, ...], name: str) -> str:
    """Return the text in the first group's attribute of this name, "" if no group has one.

    HDF5 can be busy for ever with a damaged text of variable length, so one is read only where it may say something.
    """
    for group in groups:
        if name in group.attrs and (group.attrs.get_id(name).dtype.kind == "S" or may_be_theano(path)):
            return text(attribute(path, group, name)).strip()
    return ""


def may_be_theano(path: Path) -> bool:
    """Does a word stand in the file that only files of Theano's order or of Keras 1 (its weights end in _W) have?"""
    words = (b"theano", b"Theano", b"channels_first", b"dim_ordering", b"data_format", b"_W")
    before = b""
    with path.open("rb") as file:
        while part := file.read(2**20):
            if any(word in before + part for word in words):
                return True
            before = part[-20:]
    return False


def attribute(path: Path, group: Any, name: str) -> Any:
    """Return an attribute after checking its size: HDF5 would allocate whatever the file claims."""
    entry = group.attrs.get_id(name)
    empty = 0 in (entry.shape or ())  # Keras writes an empty list of names as numbers
    if not empty and h5py.check_string_dtype(entry.dtype) is None:  # HDF5 could be busy for ever with a nested type
        raise damaged(path, f"an attribute {name} that is no text")
    if math.prod(entry.shape or ()) * entry.dtype.itemsize > LARGEST_ATTRIBUTE:
        raise damaged(path, f"an attribute {name} of {entry.shape} times {entry.dtype.itemsize} bytes")
    return group.attrs[name]


def strings(path: Path, group: Any, name: str) -> list[str]:
    """Return an attribute's strings; a long list is split into name0, name1, ..., as HDF5 limits one to 64 KiB."""
    parts = [name] if name in group.attrs else []
    while not parts or parts[0] != name:
        if f"{name}{len(parts)}" not in group.attrs:
            break
        parts.append(f"{name}{len(parts)}")
    if not parts:
        raise KeyError(f"no {name} in {group.name}")
    values = [text(value) for part in parts for value in np.asarray(attribute(path, group, part)).ravel()]
    for value in values:
        check_name(path, value)
    return values


def text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


class Keras3:
    """A walk over the groups of Keras 3: layers/<class>_<number>/vars/<number>, and layers inside a layer.

    No group may come twice, or a small file could keep the walk going for ever.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.budget, self.seen = path, Budget(path), set[int]()
        self.tensors: dict[str, np.ndarray] = {}

    def read(self, file: Any, config: dict[str, Any]) -> dict[str, np.ndarray]:
        """Return the variables by their layers' names where the model's config is known, else by class and number."""
        only = ("vars", "layers") if linked(file, "layers") else None  # the optimizer is beside them
        self.layer(file, "", {"config": config}, only)
        return self.tensors

    def members(self, group: Any) -> list[str]:
        if not isinstance(group, h5py.Group) or hash(group) in self.seen:
            raise damaged(self.path, "something in place of a group, or a group twice")
        self.seen.add(hash(group))
        return sorted(group, key=natural)

    def layer(self, group: Any, name: str, entry: dict[str, Any], only: tuple[str, ...] | None = None) -> None:
        """Read everything in a layer's group; entry: the layer in the config."""
        for child in self.members(group):
            inner = inside(self.path, group, child)
            if child == "vars":
                self.variables(inner, name, entry)
            elif child == "layers":
                self.layers(inner, name, entry)
            elif (only is None or child in only) and (name or child != "optimizer"):
                self.layer(inner, joined(name, child), {})

    def layers(self, group: Any, name: str, entry: dict[str, Any]) -> None:
        """Read the layers of a model, in the order of its config where there is one."""
        entries = by_group(entry.get("config", {}).get("layers", []))
        members = dict.fromkeys(self.members(group))
        unnamed = [member for member in members if member not in entries]
        if entries and unnamed:
            raise damaged(self.path, f"its config.json names no layer {unnamed[0]}")
        for member in [m for m in entries if m in members] or members:
            inner = entries.get(member, {"config": {"name": member}})
            self.layer(inside(self.path, group, member), joined(name, inner["config"]["name"]), inner)

    def variables(self, group: Any, name: str, entry: dict[str, Any]) -> None:
        names = dict(enumerate(variable_names(entry)))
        for member in self.members(group):
            full = joined(name, names.get(int(member), member) if member.isdecimal() else member)
            add(self.path, self.tensors, full, array_of(self.path, full, inside(self.path, group, member), self.budget))


def by_group(layers: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the entries of a config by the names of their groups: conv2d, conv2d_1, dense, ..."""
    entries: dict[str, dict[str, Any]] = {}
    counts: dict[str, int] = {}
    for entry in layers:
        kind = snake_case(entry["class_name"])
        counts[kind] = counts.get(kind, -1) + 1
        entries[f"{kind}_{counts[kind]}" if counts[kind] else kind] = entry
    return entries


def variable_names(entry: dict[str, Any]) -> list[str]:
    """Return the names of a layer's numbered variables: Keras 3 stores them in the order of their creation."""
    kind, config = entry.get("class_name", ""), entry.get("config", {})
    if kind in ("BatchNormalization", "LayerNormalization", "GroupNormalization"):
        names = ["gamma"] * bool(config.get("scale", True)) + ["beta"] * bool(config.get("center", True))
        return names + (["moving_mean", "moving_variance"] if kind == "BatchNormalization" else [])
    if kind.startswith("SeparableConv"):
        return ["depthwise_kernel", "pointwise_kernel", "bias"]
    if kind == "Normalization":
        return ["mean", "variance", "count"]
    return ["kernel", "bias"] if kind == "Dense" or "Conv" in kind else []


def snake_case(class_name: str) -> str:
    """Return conv2d for Conv2D and batch_normalization for BatchNormalization, by Keras's rule for groups' names."""
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", class_name))
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


def natural(key: str) -> tuple[str, int]:
    """Return a sorting key that puts conv2d_10 after conv2d_9, and conv2d, the first of them, before all."""
    stem, _, number = key.rpartition("_")
    return (stem, int(number)) if number.isdecimal() else (key, 0)


def joined(*parts: str) -> str:
    return "/".join(part for part in parts if part)


def linked(group: Any, name: str) -> bool:
    """Return whether the group has this name; `in` would follow a link."""
    return group.get(name, getlink=True) is not None


def inside(path: Path, group: Any, name: str) -> Any:
    """Return what a group has under a name, in this same file: a link could lead to any file on the machine."""
    parts = name.split("/")
    if len(parts) > DEEPEST:
        raise damaged(path, f"{len(parts)} groups in each other")
    for part in parts:
        link = group.get(part, getlink=True)
        if link is None:
            raise damaged(path, f"nothing at {name}")
        if not isinstance(link, h5py.HardLink):
            raise InputError(f"{path} has a link in place of {shown(name)}: copy the linked data into one file.")
        group = group[part]
    return group


def array_of(path: Path, name: str, dataset: Any, budget: Budget) -> np.ndarray:
    if not isinstance(dataset, h5py.Dataset):
        raise damaged(path, f"no data at {name}")
    if dataset.is_virtual or dataset.external:
        raise InputError(f"{path} keeps {shown(name)} in another file: copy the data into one file.")
    plist = dataset.id.get_create_plist()
    if not {plist.get_filter(i)[0] for i in range(plist.get_nfilters())} <= SAFE_FILTERS:
        raise InputError(f"{path} compresses {shown(name)} with a plug-in of HDF5: save it without, or with gzip.")
    dtype = dataset.dtype
    half = dtype.kind == "V" and dtype.itemsize == 2 and dataset.attrs.get("dtype") == "bfloat16"
    if dtype.kind not in "fiub" and not half:
        raise InputError(f"{path} holds no numbers in {shown(name)} ({shown(dtype)}): give a weight file.")
    budget.take(max(dataset.size, math.prod(dataset.chunks or ())) * dtype.itemsize)
    if dataset.size and not dataset.id.get_storage_size():
        raise damaged(path, f"the numbers of {name} were never written")
    return bfloat16(dataset[()].view(np.uint16)) if half else dataset[()]
