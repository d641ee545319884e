"""Published weight files of other frameworks, read with NumPy and h5py alone: nothing in a file is ever executed."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from minisatm.errors import InputError

from . import caffe, keras, npz, pytorch, safetensors
from .checks import Read, damaged, open_zip, shown

KNOWN = "Keras .h5 or .keras, PyTorch .pth, safetensors, .caffemodel, .npz"
NOT_WEIGHTS = {  # how a file begins: what it is, and what to do about it
    b"version https://git-lfs": "is a Git LFS pointer of {size} bytes: fetch the file itself with git lfs pull.",
    b"\x1f\x8b": "is compressed with gzip: unpack it with gunzip first.",
    b"\x93NUMPY": "is a single array: save all arrays by name, with np.savez.",
    b"name:": "is the definition of a network for Caffe, without weights: name the .caffemodel.",
    b"\x80": "is a plain Python pickle, which is not read: save the arrays with torch.save or np.savez instead.",
}


@dataclass(frozen=True)
class Source:
    """The tensors of a file under the names, in the order and with the axes that its framework gave them."""

    path: Path
    format: str
    tensors: dict[str, np.ndarray]
    sha256: str
    notes: tuple[str, ...]


def read(path: str | Path) -> Source:
    """Read a weight file of any known kind, recognised by its content; the ending of its name says nothing.

    An InputError says in one sentence what is wrong and what to do, for anything but a whole file of a known kind.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path} is a directory: name the file of weights in it.")
    if not path.is_file():
        raise InputError(f"there is no file {path}: check the path.")
    try:
        kind, tensors, notes = reader_of(path)(path)
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    except InputError:
        raise
    except PermissionError as problem:
        raise InputError(f"{path} may not be read by you: change its permissions.") from problem
    except Exception as problem:  # on bad bytes a parser raises anything: NumPy, h5py, zipfile and json each their own
        raise damaged(path, f"{type(problem).__name__}: {problem}") from problem
    if not tensors:
        raise InputError(f"{path} ({kind}) holds no weights: name the file with the trained weights.")
    return Source(path, kind, tensors, sha256, tuple(notes))


def reader_of(path: Path) -> Callable[[Path], Read]:
    with path.open("rb") as file:
        head = file.read(512)
    if not head:
        raise InputError(f"{path} is empty: download or copy it again.")
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return keras.read_h5
    if head.startswith(b"PK\x03\x04"):
        return reader_of_zip(path)
    if head.startswith(pytorch.LEGACY_MAGIC):
        return pytorch.read_legacy
    if head[4:9] == b"\0\0\0\0{":  # a length below 4 GiB, which may begin like anything, and JSON
        return safetensors.read
    for magic, problem in NOT_WEIGHTS.items():
        if head.startswith(magic):
            raise InputError(f"{path} {problem.format(size=path.stat().st_size)}")
    if head.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        raise InputError(f"{path} is a web page that was saved in place of the file: download the file itself.")
    if caffe.plausible(head):
        return caffe.read
    raise InputError(f"{path} is of no known kind or damaged at its start: name a file of {KNOWN}.")


def reader_of_zip(path: Path) -> Callable[[Path], Read]:
    if not zipfile.is_zipfile(path):
        raise damaged(path, "a zip archive without its end")
    with open_zip(path) as archive:
        names = archive.namelist()
    if "model.weights.h5" in names and "config.json" in names:
        return keras.read_archive
    if any(name.count("/") == 1 and name.endswith("/data.pkl") for name in names):
        return pytorch.read_zip
    if names and all(name.endswith(".npy") for name in names):
        return npz.read
    some = ", ".join(shown(name) for name in names[:3])
    raise InputError(f"{path} is a zip archive of something else ({some}): unpack it and name a file of {KNOWN}.")
