"""Read the weight files of other frameworks with NumPy and h5py alone; no code in a file is ever run."""

from __future__ import annotations

import hashlib
import re
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from minisatm.errors import InputError

from . import caffe, keras, npz, pytorch, safetensors
from .checks import Read, damaged, must_be_file, open_zip, shown, unreadable

KNOWN = "Keras .h5 or .keras, PyTorch .pth, safetensors, .caffemodel, .npz"
NOT_WEIGHTS = {  # the first bytes: what such a file is, and what to do
    b"version https://git-lfs": "is a Git LFS pointer of {size} bytes: fetch the file itself with git lfs pull.",
    b"\x1f\x8b": "is compressed with gzip: unpack it with gunzip first.",
    b"\x93NUMPY": "is a single array: save all arrays by name, with np.savez.",
    b"\x80": "is a plain Python pickle, which is not read: save the arrays with torch.save or np.savez.",
}
PROTOTXT = re.compile(rb"(name|input|input_dim|layers?|net|train_net|force_backward|state)\s*[:{]")


@dataclass(frozen=True)
class WeightFile:
    """The tensors of a file, with the names, order and axes of the framework that wrote it."""

    path: Path
    format: str
    tensors: dict[str, np.ndarray]
    sha256: str
    notes: tuple[str, ...]


def read(path: str | Path) -> WeightFile:
    """Read a weight file of any known format, which is recognised by its content and not by the ending of its name.

    Raises InputError for anything else than a whole file of a known format.
    """
    path = Path(path)
    must_be_file(path)
    try:
        kind, tensors, notes = reader_of(path)(path)
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    except InputError:
        raise
    except Exception as problem:  # on bad bytes NumPy, h5py, zipfile and json raise exceptions of many kinds
        if isinstance(problem, OSError) and (reason := unreadable(path, problem)):
            raise reason from problem
        raise damaged(path, f"{type(problem).__name__}: {problem}") from problem
    if not tensors:
        raise InputError(f"{path} ({kind}) holds no weights: give the file with the trained weights.")
    return WeightFile(path, kind, tensors, sha256, tuple(notes))


def reader_of(path: Path) -> Callable[[Path], Read]:
    """Return the function that reads this file, by its first bytes."""
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
    if head[4:9] == b"\0\0\0\0{":  # JSON after its length in 8 bytes; the first 4 can look like any other format
        return safetensors.read
    text = plain_text(head)
    for magic, problem in NOT_WEIGHTS.items():
        if head.startswith(magic) or text.startswith(magic):
            raise InputError(f"{path} {problem.format(size=path.stat().st_size)}")
    if PROTOTXT.match(text):
        raise InputError(f"{path} is the definition of a network for Caffe, without weights: give the .caffemodel.")
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        raise InputError(f"{path} is a web page, not the file that it links to: download the file itself.")
    if caffe.plausible(head):
        return caffe.read
    raise InputError(f"{path} has no known format, or its start is damaged: give a file of {KNOWN}.")


def plain_text(head: bytes) -> bytes:
    """Return the first bytes of a text in small letters, without byte order mark, comments and spaces before it."""
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        head = head[: len(head) // 2 * 2].decode("utf-16", "ignore").encode()
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    while text.startswith(b"#"):
        text = text.partition(b"\n")[2].lstrip()
    return text.lower()


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
    raise InputError(f"{path} is a zip archive of other files ({some}): unpack it and give a file of {KNOWN}.")
