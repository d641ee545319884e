"""PyTorch's checkpoints: the zip of PyTorch 1.6 and later, and the older stream of pickles and raw storages."""

from __future__ import annotations

import functools
import io
import math
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from minisatm.errors import InputError

from .checks import (
    MOST_DIMS,
    MOST_TENSORS,
    Budget,
    Read,
    Work,
    add,
    bfloat16,
    check_name,
    damaged,
    open_zip,
    read_member,
    shown,
)
from .pickles import Machine, Named, Opaque, fill

LEGACY_MAGIC = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."
LONGEST_PICKLE = 2**24
STORAGES = {"Double": "f8", "Float": "f4", "Half": "f2", "BFloat16": "bf16", "Long": "i8", "Int": "i4", "Short": "i2",
            "Char": "i1", "Byte": "u1", "Bool": "?"}  # fmt: skip
NO_WEIGHTS = ("torch.device", "torch.Size", "argparse.Namespace", "collections.defaultdict", "collections.Counter",
              "numpy.dtype", "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar",
              "_codecs.encode")  # fmt: skip
UNREAD = {  # how PyTorch rebuilds tensors whose numbers are not simply in a storage, and their types
    "torch._utils._rebuild_sparse_tensor": "a sparse tensor",
    "torch._utils._rebuild_sparse_csr_tensor": "a sparse tensor",
    "torch._utils._rebuild_qtensor": "a quantised tensor",
    "torch._utils._rebuild_nested_tensor": "a nested tensor",
    "torch._utils._rebuild_meta_tensor_no_storage": "a tensor of the meta device without numbers",
    "torch._utils._rebuild_wrapper_subclass": "a tensor of a class of its own",
    "torch._utils._rebuild_device_tensor_from_numpy": "a tensor of another device",
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": "a tensor of another device",
    "torch._utils._rebuild_tensor_v3": "numbers of a type such as float8 or uint16",
    "torch.nn.parameter.UninitializedParameter": "a parameter that was never initialised",
    "torch.ComplexFloatStorage": "complex numbers",
    "torch.ComplexDoubleStorage": "complex numbers",
    "torch.distributed.tensor.DTensor": "a DTensor, which is spread over machines",
    "torch.distributed._tensor.api.DTensor": "a DTensor, which is spread over machines",
    "torch.distributed.tensor._api.DTensor": "a DTensor, which is spread over machines",
    **{f"torch.Q{name}Storage": "a quantised tensor" for name in ("Int8", "UInt8", "Int32", "UInt4x2", "UInt2x4")},
}
DEEPEST = 5  # dicts in each other


@dataclass(frozen=True)
class Kind:
    """The type of a storage's elements, from its name in the pickle."""

    dtype: str

    @property
    def itemsize(self) -> int:
        return 2 if self.dtype == "bf16" else np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Storage:
    """`count` elements from `start` on, of the `whole` elements that the file has under a key."""

    key: str
    kind: Kind
    start: int
    count: int
    whole: int


@dataclass(frozen=True)
class View:
    """A tensor as the pickle describes it, before its numbers are read; offset, size and stride are in elements.

    negative: PyTorch has stored the numbers with the other sign, and a flag (the imaginary part of a conjugate).
    """

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]
    negative: bool


def read_zip(path: Path) -> Read:
    with open_zip(path) as archive:
        (pickle,) = (n for n in archive.namelist() if n.count("/") == 1 and n.endswith("/data.pkl"))
        folder = pickle.removesuffix("data.pkl")
        if archive.getinfo(pickle).file_size > LONGEST_PICKLE:
            raise damaged(path, f"{shown(pickle)} of {archive.getinfo(pickle).file_size} bytes")
        big = folder + "byteorder" in archive.namelist() and archive.read(folder + "byteorder") == b"big"
        saved = machine(path).load(io.BytesIO(archive.read(pickle)))

        @functools.cache  # tensors can share a storage
        def raw(key: str) -> np.ndarray:
            return read_member(archive, archive.getinfo(f"{folder}data/{key}"))

        return "PyTorch zip", *tensors_of(path, saved, raw, ">" if big else "<")


def read_legacy(path: Path) -> Read:
    """Read magic number, protocol, the writer's machine, the object and the storages' keys; then the storages."""
    with path.open("rb") as file:
        head = io.BytesIO(file.read(min(LONGEST_PICKLE, path.stat().st_size)))
        known: dict[str, Storage] = {}
        load = machine(path, known).load
        _, protocol, _, saved, keys = (load(head) for _ in range(5))
        if protocol != 1001:
            raise InputError(f"{path} has another protocol of PyTorch than 1001: save it again with torch.save.")
        file.seek(head.tell())
        del head
        raw: dict[str, np.ndarray] = {}
        for key in keys:
            if not isinstance(key, str):
                raise ValueError("a storage without a name")
            (count,) = struct.unpack("<q", file.read(8))
            size = count * known[key].kind.itemsize
            if count != known[key].whole or size > path.stat().st_size - file.tell():
                raise damaged(path, f"storage {shown(key)} should have {known[key].whole} elements")
            raw[key] = np.fromfile(file, np.uint8, size)
        if file.read(1):
            raise damaged(path, "there are bytes after its last storage")
        return "PyTorch legacy", *tensors_of(path, saved, raw.__getitem__, "<")  # little-endian from any machine


def machine(path: Path, known: dict[str, Storage] | None = None) -> Machine:
    """Return a reader of torch.save's pickles; known collects the storages by key."""

    def name(module: str, name: str) -> Any:
        full = f"{module}.{name}"
        if full in NAMES:
            return NAMES[full]
        if full in UNREAD:
            raise InputError(
                f"{path} holds {UNREAD[full]}, which is not read: load it in PyTorch, make plain float32 tensors of it "
                "and torch.save those."
            )
        whole = full.startswith(("torch.nn.", "torchvision.", "__torch__"))
        raise InputError(
            f"{path} is {'a whole saved model' if whole else 'not a state_dict'} (it asks Python for {shown(full)}), "
            "and no code in a file is run here: if you trust it, load it with the program that wrote it and "
            "torch.save the model.state_dict()."
        )

    def persistent(id: Any) -> Storage:
        if id[0] == "module":
            raise InputError(
                f"{path} is a whole saved model: load it with the program that wrote it and torch.save the "
                "model.state_dict()."
            )
        _, kind, key, _, whole, *view = id
        (_, start, count) = view[0] if view and view[0] is not None else (None, 0, whole)
        if not isinstance(kind, Kind) or not isinstance(key, str) or not counts(start, count, whole):
            raise ValueError("a broken storage")
        if start + count > whole:
            raise ValueError("a storage that reaches outside another")
        storage = Storage(key, kind, start, count, whole)
        if known is not None:
            known.setdefault(key, storage)
        return storage

    return Machine(name, persistent, Work(path).take)


def rebuild(storage: Any, offset: Any, size: Any, stride: Any, *more: Any) -> View:
    """Stand in for torch._utils._rebuild_tensor_v2; a tensor that reaches outside its storage is an error."""
    flags = more[2] if len(more) > 2 and more[2] is not None else {}
    if not isinstance(flags, dict) or any(value for flag, value in flags.items() if flag != "neg"):
        raise ValueError("a tensor with flags other than neg")
    if not isinstance(storage, Storage) or not isinstance(size, tuple) or not isinstance(stride, tuple):
        raise ValueError("a broken tensor")
    if len(size) != len(stride) or len(size) > MOST_DIMS or not counts(offset, *size, *stride):
        raise ValueError("a tensor of negative or too many dimensions")
    last = sum((n - 1) * step for n, step in zip(size, stride))
    if 0 not in size and offset + last >= storage.count:
        raise ValueError("a tensor that reaches outside its storage")
    return View(storage, offset, size, stride, flags.get("neg", False) is True)


def counts(*values: Any) -> bool:
    return all(type(n) is int and 0 <= n < 2**48 for n in values)


def parameter(data: Any, *_: Any) -> Any:
    if not isinstance(data, View):
        raise ValueError("a parameter without a tensor")
    return data


def of_class(rebuild: Any, kind: Any, arguments: Any, *_: Any) -> Any:
    """Stand in for torch._tensor._rebuild_from_type_v2: a tensor with attributes, or of a class of PyTorch's."""
    if kind is not Opaque or not isinstance(rebuild, Named) or not isinstance(arguments, tuple):
        raise ValueError("a tensor of an unknown class")
    return parameter(rebuild.call(*arguments))


def ordered(items: Any = ()) -> Any:
    """Stand in for collections.OrderedDict; Python 2 passes the items as pairs."""
    return fill({}, [part for key, value in items for part in (key, value)])


NAMES: dict[str, Any] = {
    "collections.OrderedDict": Named(ordered),
    "torch._utils._rebuild_tensor": Named(rebuild),
    "torch._utils._rebuild_tensor_v2": Named(rebuild),
    "torch._tensor._rebuild_from_type_v2": Named(of_class),
    **{f"torch.{name}": Opaque for name in ("Tensor", "nn.parameter.Parameter", "nn.parameter.Buffer")},
    "torch._utils._rebuild_parameter": Named(parameter),
    "torch._utils._rebuild_parameter_with_state": Named(parameter),
    **{f"{module}.{name}Storage": Kind(d) for name, d in STORAGES.items() for module in ("torch", "torch.cuda")},
    **{name: Named(lambda *_: Opaque()) for name in NO_WEIGHTS},
}


def tensors_of(
    path: Path, saved: Any, raw: Callable[[str], np.ndarray], order: str
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Return tensors and notes; raw(key) returns a storage's bytes, in the byte order < or >."""
    if not isinstance(saved, dict):
        raise InputError(f"{path} holds no names: torch.save the model.state_dict() instead.")
    tensors: dict[str, np.ndarray] = {}
    budget = Budget(path)
    for name, view in views_in(path, saved).items():
        add(path, tensors, name, array_of(view, raw(view.storage.key), order, budget))
    return tensors, []


def views_in(path: Path, saved: dict[Any, Any]) -> dict[str, View]:
    """Return the tensors of a checkpoint; those of a dict in it have its key before their names: "state_dict.w".

    An optimiser's tensors are left out: its dicts have numbers as keys. A dict that is met twice is looked at once.
    """
    views: dict[str, View] = {}
    left = [("", saved, 1)]
    seen = {id(saved)}
    while left:
        prefix, values, depth = left.pop(0)
        for key, value in values.items():
            if not isinstance(key, str):
                continue
            if isinstance(value, View):
                check_name(path, key)
                if prefix + key in views:
                    raise InputError(f"{path} holds two tensors named {shown(prefix + key)}: save it again.")
                views[prefix + key] = value
            elif isinstance(value, dict) and id(value) not in seen and depth < DEEPEST:
                check_name(path, key)
                seen.add(id(value))
                left.append((f"{prefix}{key}.", value, depth + 1))
    if len(views) > MOST_TENSORS:
        raise InputError(f"{path} holds more than {MOST_TENSORS} tensors: give a file with one network's weights.")
    return views


def array_of(view: View, raw: np.ndarray, order: str, budget: Budget) -> np.ndarray:
    """Return the numbers of a view; rebuild and persistent have checked that it stays inside its storage."""
    kind, storage = view.storage.kind, view.storage
    if raw.size != storage.whole * kind.itemsize:
        raise ValueError(f"storage {storage.key} has {raw.size} bytes")
    half = kind.dtype == "bf16"
    dtype = np.dtype(order + ("u2" if half else kind.dtype.replace("?", "b1")))
    count = math.prod(view.size)
    budget.take(count * kind.itemsize)
    flat = raw.view(dtype)[storage.start + view.offset :]
    strides = tuple(step * kind.itemsize for step in view.stride)
    array = np.lib.stride_tricks.as_strided(flat, view.size, strides) if count else np.zeros(view.size, dtype)
    array = bfloat16(array) if half else array
    return -array if view.negative else array
