"""NumPy's .npz: a zip of .npy files. An array of Python objects is a pickle, which is refused."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from minisatm.errors import InputError

from .checks import Read, add, damaged, elements, open_zip, read_member, shown

HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def read(path: Path) -> Read:
    tensors: dict[str, np.ndarray] = {}
    with open_zip(path) as archive:
        for info in archive.infolist():
            name = info.filename.removesuffix(".npy")
            add(path, tensors, name, array_of(path, name, read_member(archive, info)))
    return "NumPy archive", tensors, []


def array_of(path: Path, name: str, data: np.ndarray) -> np.ndarray:
    """Return the array in the bytes of a .npy file; np.load would allocate the header's shape before checking it."""
    head = io.BytesIO(data[: 2**16].tobytes())
    shape, columns_first, dtype = HEADERS[np.lib.format.read_magic(head)](head)
    if dtype.hasobject:
        raise InputError(f"{path} holds Python objects in {shown(name)}, which are not read: save plain arrays.")
    if elements(path, name, shape) * dtype.itemsize != data.size - head.tell():
        raise damaged(path, f"{shown(name)} does not have the size in its header")
    return np.frombuffer(data, dtype, offset=head.tell()).reshape(shape, order="F" if columns_first else "C")
