"""What all readers share: errors for damaged files, limits on the memory that a file can use, plain NumPy arrays."""

from __future__ import annotations

import errno
import math
import stat
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
MOST_TENSORS = 20_000
MOST_MEMBERS = 20_000  # of a zip archive
MOST_STEPS = 2**19  # operations and objects: the largest published file needs 100,000
LONGEST_NAME = 1000  # characters
LONGEST_JSON = 2**22  # bytes: as Python objects it takes 30 times as much
KINDS = {stat.S_IFDIR: "a directory", stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket",
         stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}  # fmt: skip
UNREADABLE = {  # system errors that say nothing about the bytes in the file
    errno.EACCES: "permission denied): change its permissions.",
    errno.EPERM: "permission denied): change its permissions.",
    errno.EAGAIN: "another program has locked it): close it there, then try again.",
    errno.EBUSY: "another program has locked it): close it there, then try again.",
    errno.ENOLCK: "its file system has no locks): copy it to a local disk.",
    errno.EMFILE: "too many files are open): close some, then try again.",
    errno.EIO: "the disk reports an error): copy it from another place.",
    errno.ESTALE: "the network drive has lost it): open the drive again.",
    errno.ELOOP: "its symbolic links form a circle): give the file itself.",
    errno.ENAMETOOLONG: "its name is too long): give it a shorter one.",
}


def shown(text: object) -> str:
    """Return a name from a file, safe for an error message: it could have line ends, control codes or megabytes."""
    text = str(text)[:200].encode("unicode_escape").decode("ascii")
    return text if len(text) <= 80 else text[:77] + "..."


def damaged(path: Path, what: str) -> InputError:
    return InputError(f"{path} is cut short or damaged ({shown(what)}): download or copy it again.")


def unreadable(path: Path, problem: OSError) -> InputError | None:
    """Return the error of a file that is locked, forbidden or out of reach; None where its bytes are to blame."""
    why = UNREADABLE.get(problem.errno or 0)
    if "already open for" in str(problem):  # HDF5's mark of a writer, which may have died; it has no number
        why = "another program writes to it, or was ended in the middle): close it there, or make the file again."
    return InputError(f"{path} cannot be read ({why}") if why else None


def must_be_file(path: Path) -> None:
    """Raise an InputError that says what the path is, if it is not a file that can be read."""
    try:
        kind = stat.S_IFMT(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError, ValueError) as problem:  # ValueError: a NUL byte in the path
        if "\0" not in str(path) and path.is_symlink():
            raise InputError(f"{path} is a symbolic link to nothing: give the file itself.") from problem
        raise InputError(f"there is no file {path}: check the path.") from problem
    except OSError as problem:
        raise unreadable(path, problem) or problem from problem
    if kind == stat.S_IFDIR:
        raise InputError(f"{path} is a directory: give the weight file in it.")
    if kind != stat.S_IFREG:
        raise InputError(f"{path} is {KINDS.get(kind, 'no file')}, not a file: save the weights in a file first.")


class Work:
    """The steps that may still be taken for a file: a small one can ask for the same work over and over."""

    def __init__(self, path: Path) -> None:
        self.path, self.left = path, MOST_STEPS

    def take(self, steps: int = 1) -> None:
        self.left -= steps
        if self.left < 0:
            raise InputError(
                f"{self.path} needs more than {MOST_STEPS:,} steps to read: it is damaged or made to do harm, or it "
                "holds far more than one network, so save the weights alone or download it from its publisher."
            )


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
    check_name(path, name)
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


def check_name(path: Path, name: str) -> None:
    if len(name) > LONGEST_NAME:
        raise InputError(
            f"{path} holds a name of {len(name):,} characters ({shown(name)}), and {LONGEST_NAME} are the most that is "
            "read: download it from its publisher."
        )


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
        if len(names) > MOST_MEMBERS:
            raise InputError(f"{path} holds more than {MOST_MEMBERS} members: give a file with one network's weights.")
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
