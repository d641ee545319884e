"""MNIST (LeCun, Cortes and Burges): 70,000 handwritten digits in four IDX files, gzipped or not."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from ..errors import InputError
from .dataset import Dataset
from .text import shown

MOST_BYTES = 2**30  # of a file, unpacked: a gzipped file of a few megabytes can unpack to more than fits in memory
CUT = "is cut short or damaged ({}): fetch it again."


def load(directory: str | Path) -> Dataset:
    """Read the digits as a Dataset of ten classes, 28 x 28 x 1, with MNIST's published test set; in memory (55 MB).

    Raises InputError with the file's name when it is missing, cut, of another kind, or has a label above 9.
    """
    directory = Path(directory)
    images, labels = [], []
    for part in ("train", "t10k"):
        x, y = _idx(directory, f"{part}-images-idx3-ubyte", 3), _idx(directory, f"{part}-labels-idx1-ubyte", 1)
        here = f"{shown(directory)}, {part} files"
        if x.shape[1:] != (28, 28):
            raise InputError(f"{here}: images of {x.shape[1]} x {x.shape[2]} pixels, not of 28 x 28: fetch them again.")
        if len(x) != len(y):
            raise InputError(f"{here}: {len(x):,} {part} images but {len(y):,} labels: fetch both files again.")
        if y.max(initial=0) > 9:
            raise InputError(f"{here}: label {y.max()} is no digit: fetch the labels again.")
        images.append(x)
        labels.append(y)
    names = [f"{part} {k}" for part, some in zip(("train", "test"), images) for k in range(len(some))]
    pixels = np.concatenate(images)[..., None]
    return Dataset(
        name="mnist", classes=tuple("0123456789"), labels=np.concatenate(labels).astype(np.int64), channels=1,
        read=lambda index: pixels[index], official_test=np.arange(len(pixels)) >= len(images[0]), mirror=False,
        files=tuple(names),
        notes=(f"{len(images[0]):,} training and {len(images[1]):,} test digits of 28 x 28 pixels",),
    )  # fmt: skip


def _idx(directory: Path, name: str, dimensions: int) -> np.ndarray:
    """Return an IDX file's unsigned bytes as a uint8 array of the shape in its header."""
    path = directory / name if (directory / name).is_file() else directory / f"{name}.gz"
    if not path.is_file():
        raise InputError(f"{shown(path)} is missing: put MNIST's four files there, gzipped or not.")
    start = 4 + 4 * dimensions
    magic = bytes([0, 0, 8, dimensions])  # two zeros, type unsigned byte, number of dimensions
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            header = file.read(start)
            if header[:4] != magic:
                begins = f"it begins with {header[:4].hex(' ') or 'nothing'}, not {magic.hex(' ')}"
                raise InputError(f"{shown(path)} is not this IDX file ({begins}): fetch it again.")
            if len(header) < start:
                raise InputError(f"{shown(path)} {CUT.format(f'{len(header)} bytes')}")
            shape = [int(n) for n in np.frombuffer(header, ">u4", offset=4)]
            expected = math.prod(shape)
            if math.prod(max(n, 1) for n in shape) > MOST_BYTES:
                most = f"more than the {MOST_BYTES:,} bytes that are read at most"
                raise InputError(f"{shown(path)} {CUT.format(f'its header has the shape {shape}, {most}')}")
            raw = file.read(expected + 1)  # one more than there should be, and never all that a file may unpack to
    except (OSError, EOFError, zlib.error) as problem:
        raise InputError(f"{shown(path)} {CUT.format(shown(problem))}") from None
    if len(raw) != expected:
        size = f"{len(raw):,} bytes{' or more' if len(raw) > expected else ''}"
        raise InputError(f"{shown(path)} {CUT.format(f'{size} for the shape {shape}')}")
    return np.frombuffer(raw, np.uint8).reshape(shape)
