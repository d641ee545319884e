"""All images of a data set are opened once, before the first step: what is damaged is listed, copies are recognised."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..errors import InputError
from ..parallel import cores
from .pixels import Unusable, decode, fault
from .text import shown

Progress = Callable[[int, int], object]  # of the number of images that are done, and of all
VERSION = 1  # of what is remembered: raise it when read_image gives other pixels
LISTED = 20  # damaged files that are named


class Checked(NamedTuple):
    """What is known of an image file, as long as its size and its time of modification stay."""

    bytes: int
    modified: int  # nanoseconds
    content: str  # digest of the file
    pixels: str  # digest of the decoded image: equal for exact copies, also with another name, format or EXIF data


def check(directory: Path, names: Sequence[str], progress: Progress) -> list[Checked]:
    """Decode the images `names` of a directory, each once: in later calls only those that are new or changed.

    Raises InputError that lists all that cannot be decoded.
    """
    memory = _memory(directory)
    known, results, todo = _remembered(memory), dict[str, Checked](), list[str]()
    for name in names:
        before = known.get(name)
        if before is not None and before[:2] == _state(directory / name):
            results[name] = before
        else:
            todo.append(name)
    damaged = []
    pool = ThreadPoolExecutor(cores(), thread_name_prefix="check")
    try:
        for done, (name, result) in enumerate(pool.map(lambda name: (name, _check(directory / name)), todo), 1):
            if isinstance(result, Checked):
                results[name] = result
            else:
                damaged.append(f"  {shown(name)} {result}")
            progress(done, len(todo))
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        if len(results) > len(names) - len(todo):
            _remember(memory, results)
    if damaged:
        more = [f"  and {len(damaged) - LISTED:,} more"] * (len(damaged) > LISTED)
        number = f"{len(damaged):,} of {len(names):,} images in {shown(directory)} cannot be used"
        raise InputError("\n".join([f"{number}: delete them or fetch them again.", *damaged[:LISTED], *more]))
    return [results[name] for name in names]


def copies(checked: Sequence[Checked]) -> np.ndarray:
    """A number for each image, int64 (n,): images with the same pixels have the same number."""
    return np.unique([one.pixels for one in checked], return_inverse=True)[1].astype(np.int64)


def note_of_copies(numbers: np.ndarray, labels: np.ndarray, what: str) -> list[str]:
    """The line about exact copies, if there are any; what: where they stay."""
    groups = [np.flatnonzero(numbers == number) for number in np.flatnonzero(np.bincount(numbers) > 1)]
    if not groups:
        return []
    crossing = sum(len(set(labels[group].tolist())) > 1 for group in groups)
    images = sum(map(len, groups))
    return [f"exact copies: {images:,} images in {len(groups):,} groups, {crossing:,} of them with two classes; {what}"]


def _state(path: Path) -> tuple[int, int] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_size, stat.st_mtime_ns


def _check(path: Path) -> Checked | str:
    """Check one file; for a damaged one, the text says what is wrong."""
    try:
        state = _state(path) or (0, 0)  # before reading: a later change is seen
        raw = path.read_bytes()
        pixels = decode(raw)
    except (OSError, Unusable) as problem:
        return fault(problem)
    return Checked(*state, _digest(raw), _digest(repr(pixels.shape).encode() + pixels.tobytes()))


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def _memory(directory: Path) -> Path:
    """The file that remembers what was checked: in the user's cache, never among the images."""
    cache = os.environ.get("MINISATM_CACHE") or os.path.join(os.path.expanduser("~"), ".cache", "minisatm")
    return Path(cache) / f"checked-{_digest(os.fsencode(os.path.abspath(directory)))}.json"


def _remembered(memory: Path) -> dict[str, Checked]:
    """What was remembered; nothing where the file is missing, damaged, or of another version."""
    try:
        stored: Any = json.loads(memory.read_bytes())
        if stored["version"] != VERSION:
            return {}
        found = {name: Checked(*entry) for name, entry in stored["files"].items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return {}
    kinds = (int, int, str, str)
    return {name: entry for name, entry in found.items() if all(map(isinstance, entry, kinds))}


def _remember(memory: Path, results: dict[str, Checked]) -> None:
    """Write the memory, whole or not at all. Where it cannot be written, the next run checks again."""
    unfinished = memory.with_name(f".{memory.name}.{os.getpid()}")
    try:
        memory.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_text(json.dumps(dict(version=VERSION, files=results)))
        unfinished.replace(memory)
    except OSError:
        with suppress(OSError):
            unfinished.unlink()
