"""safetensors: the length of a JSON header, the header, then the tensors one after the other."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from minisatm.errors import InputError

from .checks import LONGEST_JSON, Read, add, bfloat16, damaged, elements, shown

DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4", "I16": "<i2",
          "I8": "i1", "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1", "BOOL": "?"}  # fmt: skip


def read(path: Path) -> Read:
    tensors: dict[str, np.ndarray] = {}
    with path.open("rb") as file:
        size = path.stat().st_size
        (length,) = struct.unpack("<Q", file.read(8))
        if length > size - 8:
            raise damaged(path, f"a header of {length} bytes in a file of {size} bytes")
        if length > LONGEST_JSON:
            raise InputError(
                f"{path} has a header of {length:,} bytes, and {LONGEST_JSON:,} are the most that is read: give a file "
                "with one network's weights."
            )
        header = json.loads(file.read(length), object_pairs_hook=once)
        header.pop("__metadata__", None)
        end = 0  # the format has no gaps, so data that is cut, moved or shared is noticed here
        for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
            first, last = entry["data_offsets"]
            if first != end or 8 + length + last > size:
                raise damaged(path, f"{shown(name)} lies at {first} to {last} of {size - 8 - length} bytes")
            end = last
            add(path, tensors, name, array_of(path, name, file, entry))
        if 8 + length + end != size:
            raise damaged(path, f"{size - 8 - length - end} bytes belong to no tensor")
    return "safetensors", tensors, []


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object in which no key comes twice: json alone would silently keep the last."""
    if len(dict(pairs)) != len(pairs):
        raise ValueError("two entries with one name")
    return dict(pairs)


def array_of(path: Path, name: str, file: BinaryIO, entry: dict[str, Any]) -> np.ndarray:
    """Return the tensor at the file's position."""
    if entry["dtype"] not in DTYPES:
        raise InputError(
            f"{path} holds {shown(name)} as {shown(entry['dtype'])}, which is not read: "
            "save it again in float32, float16 or bfloat16."
        )
    dtype = np.dtype(DTYPES[entry["dtype"]])
    shape, (first, last) = entry["shape"], entry["data_offsets"]
    count = elements(path, name, shape)
    if count * dtype.itemsize != last - first:
        raise damaged(path, f"{shown(name)} does not have the size in its header")
    array = np.fromfile(file, dtype, count).reshape(shape)
    return bfloat16(array) if entry["dtype"] == "BF16" else array
