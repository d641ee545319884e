"""Caffe's .caffemodel: a NetParameter in the wire format of protocol buffers, of which a few fields are read.

The numbers of the fields come from caffe.proto in BVLC/caffe.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from minisatm.errors import InputError

from .checks import Read, Work, add, check_name, damaged, elements, shown

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
GENERATIONS = {2: (4, 6), 100: (1, 7)}  # layers (V1) and layer: the fields of a layer's name and its blobs
FLOATS, DOUBLES, SHAPE, OLD_SHAPE = 5, 8, 7, (1, 2, 3, 4)  # of a BlobProto; the old one: num, channels, height, width
UNPACKED_AT_ONCE = 1024

Span = tuple[int, int]  # where a length-delimited field lies in the file: start and end


def plausible(head: bytes) -> bool:
    """Return whether these bytes can begin a NetParameter, with a name or a layer: the format has no magic number."""
    return head[:1] in (b"\x0a", b"\x12") or head[:2] == b"\xa2\x06"


def read(path: Path) -> Read:
    tensors: dict[str, np.ndarray] = {}
    layers = 0
    work = Work(path)
    with path.open("rb") as file:
        for field, value in fields(file, work, 0, path.stat().st_size):
            if field in GENERATIONS and isinstance(value, tuple):
                layers += 1
                name, blobs = layer(path, file, work, value, *GENERATIONS[field])
                for i, blob in enumerate(blobs):
                    add(path, tensors, f"{name}/{i}", array_of(path, f"{name}/{i}", file, work, blob))
    if layers and not tensors:
        raise InputError(
            f"{path} has layers without weights (Caffe's first format, or only the definition of a network): "
            "convert it with Caffe's upgrade_net_proto_binary, or give the trained .caffemodel."
        )
    return "Caffe", tensors, []


def layer(
    path: Path, file: BinaryIO, work: Work, span: Span, name_field: int, blobs_field: int
) -> tuple[str, list[Span]]:
    name, blobs = "", []
    for field, value in fields(file, work, *span):
        if field == name_field and isinstance(value, tuple):
            file.seek(value[0])
            name = file.read(value[1] - value[0]).decode()
            check_name(path, name)
        elif field == blobs_field and isinstance(value, tuple):
            blobs.append(value)
    return name, blobs


def array_of(path: Path, name: str, file: BinaryIO, work: Work, span: Span) -> np.ndarray:
    pieces: list[np.ndarray] = []
    old_shape: dict[int, int] = {}
    shape: list[int] | None = None
    for field, value in fields(file, work, *span, repeated=(FLOATS, DOUBLES)):
        if field in (FLOATS, DOUBLES):
            pieces.append(numbers(file, value, "<f4" if field == FLOATS else "<f8"))
        elif field == SHAPE and isinstance(value, tuple):
            dims = (n for dim, v in fields(file, work, *value) if dim == 1 for n in integers(file, work, v))
            shape = list(itertools.islice(dims, 100))
        elif field in OLD_SHAPE and isinstance(value, int):
            old_shape[field] = value
    if shape is None:
        shape = [old_shape.get(field, 0) for field in OLD_SHAPE] if old_shape else [0]
    data = pieces[0] if len(pieces) == 1 else np.concatenate([np.zeros(0, np.float32), *pieces])
    if elements(path, name, shape) != data.size:
        raise damaged(path, f"{shown(name)} holds {data.size} numbers for the shape {shape}")
    return data.reshape(shape)


def numbers(file: BinaryIO, value: Any, dtype: str) -> np.ndarray:
    """Return the packed numbers at a Span of the file, or the unpacked ones that fields() has collected."""
    if isinstance(value, bytes):
        return np.frombuffer(value, dtype)
    start, end = value
    if (end - start) % np.dtype(dtype).itemsize:
        raise ValueError("half a number at the end")
    file.seek(start)
    return np.fromfile(file, dtype, (end - start) // np.dtype(dtype).itemsize)


def integers(file: BinaryIO, work: Work, value: Any) -> Iterator[int]:
    if isinstance(value, int):
        yield value
    else:
        file.seek(value[0])
        while file.tell() < value[1]:
            work.take()
            yield varint(file)


def fields(
    file: BinaryIO, work: Work, start: int, end: int, repeated: tuple[int, ...] = ()
) -> Iterator[tuple[int, Any]]:
    """Yield (number, value) for each field of a message; value: an int, a Span, or the bytes of a number.

    Unpacked numbers of the repeated fields are joined, many at a time: one by one they would take minutes.
    """
    at, most = start, 1
    while at < end:
        work.take()
        file.seek(at)
        key = varint(file)
        field, wire = key >> 3, key & 7
        if field == 0 or wire not in (VARINT, FIXED64, BYTES, FIXED32):
            raise ValueError(f"field {field} of wire type {wire}")
        value: Any
        if wire == VARINT:
            value = varint(file)
            at = file.tell()
        elif wire == BYTES:
            length = varint(file)
            value = (file.tell(), file.tell() + length)
            at = value[1]
        else:
            width = 4 if wire == FIXED32 else 8
            value = file.read(width)
            at = file.tell()
            if field in repeated:
                more = following(file, key, width, min(most, (end - at) // (1 + width)))
                value += more.tobytes()
                at += len(more) * (1 + width)
                most = min(2 * most, UNPACKED_AT_ONCE) if len(more) == most else 1  # other fields may alternate
        if at > end:
            raise ValueError(f"field {field} ends {at - end} bytes after its message")
        yield field, value


def following(file: BinaryIO, key: int, width: int, count: int) -> np.ndarray:
    """Return, as (n, width) bytes, the up to `count` numbers at the file's position that each follow the same key."""
    rows = np.frombuffer(file.read(count * (1 + width)), np.uint8).reshape(-1, 1 + width)
    return rows[: np.argmin([*(rows[:, 0] == key), False]), 1:]


def varint(file: BinaryIO) -> int:
    value: int = 0
    for i in range(10):
        (byte,) = struct.unpack("B", file.read(1))
        value |= (byte & 127) << (7 * i)
        if byte < 128:
            return value
    raise ValueError("an integer of more than ten bytes")
