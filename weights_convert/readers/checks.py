"""What all readers share: errors for damaged files, limits on the memory that a file can use, plain NumPy arrays."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from minisatm.errors import InputError

Read = tuple[str, dict[str, np.ndarray], list[str]]  # format, tensors, notes

GIB = 2**30
LARGEST = 16 * GIB
OUT_OF_PROPORTION = 20  # the tensors may take this many times the file's size: float weights hardly compress
PLAIN_ZIP = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
MOST_DIMS = 8
MOST_TENSORS = 100_000


def shown(text: object) -> str:
    """Return a name from a file, safe for an error message: it could have line ends, control codes or megabytes."""
    text = str(text)[:200].encode("unicode_escape").decode("ascii")
    return text if len(text) <= 80 else text[:77] + "..."


def damaged(path: Path, what: str) -> InputError:
    return InputError(f"{path} is cut short or damaged ({shown(what)}): download or copy it again.")


class Budget:
    """The bytes that may still be allocated for a file; take() is called before each allocation."""

    def __init__(self, path: Path) -> None:
        self.path, self.size = path, path.stat().st_size
        self.left = min(OUT_OF_PROPORTION * self.size + 2**20, LARGEST)

    def take(self, count: int) -> None:
        self.left -= count
        if count < 0 or self.left < 0:
            raise InputError(
                f"{self.path} has {self.size} bytes and needs more than {OUT_OF_PROPORTION} times as much memory, or "
                f"more than {LARGEST // GIB} GiB: it is damaged or made to do harm, so download it from its publisher."
            )


def add(path: Path, tensors: dict[str, np.ndarray], name: str, array: np.ndarray) -> None:
    """Store an array under its name, contiguous and in this machine's byte order; float16 becomes float32."""
    if name in tensors:
        raise InputError(f"{path} holds two tensors named {shown(name)}: download or make it again.")
    if len(tensors) >= MOST_TENSORS:
        raise InputError(f"{path} holds more than {MOST_TENSORS} tensors: give a file with one network's weights.")
    if array.dtype.kind not in "fiub":
        raise InputError(f"{path} holds no numbers in {shown(name)} ({shown(array.dtype)}): give a weight file.")
    elements(path, name, array.shape)
    half = array.dtype.kind == "f" and array.dtype.itemsize == 2  # of either byte order
    dtype = np.dtype(np.float32) if half else array.dtype.newbyteorder("=")
    tensors[name] = np.asarray(array, dtype, order="C")


def elements(path: Path, name: str, shape: Sequence[Any]) -> int:
    """Return the number of elements of a shape, after checking that it is a shape."""
    if len(shape) > MOST_DIMS or any(type(n) is not int or n < 0 for n in shape):
        raise damaged(path, f"{shown(name)} has {len(shape)} dimensions, {shown(list(shape[:MOST_DIMS]))}")
    return math.prod(shape)


def bfloat16(bits: np.ndarray) -> np.ndarray:
    """Return bfloat16 numbers, which NumPy does not have, as float32: they are its upper 16 bits."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def open_zip(path: Path) -> zipfile.ZipFile:
    """Open a zip archive whose members have different names and, unpacked, a size in proportion to the file's."""
    archive = zipfile.ZipFile(path)
    try:
        names = archive.namelist()
        if len(set(names)) != len(names):
            raise damaged(path, "two members with one name")
        if any(info.compress_type not in PLAIN_ZIP for info in archive.infolist()):
            raise damaged(path, "a compression that no writer of weights uses")  # LZMA can allocate any memory
        if any(info.header_offset + info.compress_size > path.stat().st_size for info in archive.infolist()):
            raise damaged(path, "a member that is longer than the archive")  # zipfile would allocate all of it
        Budget(path).take(sum(info.file_size for info in archive.infolist()))
    except InputError:
        archive.close()
        raise
    return archive


def read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    """Return a member's declared bytes, no more; read in pieces, since zipfile would hold a large one twice."""
    data = np.empty(info.file_size, np.uint8)
    filled = 0
    with archive.open(info) as member:
        while piece := member.read(2**20):  # the last read also checks the CRC
            data[filled : filled + len(piece)] = np.frombuffer(piece, np.uint8)
            filled += len(piece)
    if filled != info.file_size:
        raise damaged(Path(str(archive.filename)), f"{info.filename} ends after {filled} of {info.file_size} bytes")
    return data
