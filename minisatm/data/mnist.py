"""MNIST (LeCun, Cortes and Burges): 70,000 handwritten digits in four IDX files, gzipped or not."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import numpy as np

from ..errors import InputError
from .dataset import Dataset

CUT = "is cut short or damaged ({}): fetch it again."


def load(directory: str | Path) -> Dataset:
    """Read the digits as a Dataset of ten classes, 28 x 28 x 1, with MNIST's published test set; in memory (55 MB).

    Raises InputError with the file's name when it is missing, cut, of another kind, or has a label above 9.
    """
    directory = Path(directory)
    images, labels = [], []
    for part in ("train", "t10k"):
        x, y = _idx(directory, f"{part}-images-idx3-ubyte", 3), _idx(directory, f"{part}-labels-idx1-ubyte", 1)
        here = f"{directory}, {part} files"
        if x.shape[1:] != (28, 28):
            raise InputError(f"{here}: images of {x.shape[1]} x {x.shape[2]} pixels, not of 28 x 28: fetch them again.")
        if len(x) != len(y):
            raise InputError(f"{here}: {len(x):,} {part} images but {len(y):,} labels: fetch both files again.")
        if y.max(initial=0) > 9:
            raise InputError(f"{here}: label {y.max()} is no digit: fetch the labels again.")
        images.append(x)
        labels.append(y)
    pixels = np.concatenate(images)[..., None]
    return Dataset(
        name="mnist", classes=tuple("0123456789"), labels=np.concatenate(labels).astype(np.int64), channels=1,
        read=lambda index: pixels[index], official_test=np.arange(len(pixels)) >= len(images[0]), mirror=False,
        notes=(f"{len(images[0]):,} training and {len(images[1]):,} test digits of 28 x 28 pixels",),
    )  # fmt: skip


def _idx(directory: Path, name: str, dimensions: int) -> np.ndarray:
    """Return an IDX file's unsigned bytes as a uint8 array of the shape in its header."""
    path = directory / name if (directory / name).is_file() else directory / f"{name}.gz"
    if not path.is_file():
        raise InputError(f"{path} is missing: put MNIST's four files there, gzipped or not.")
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            raw = file.read()
    except (OSError, EOFError, zlib.error) as problem:
        raise InputError(f"{path} {CUT.format(problem)}") from None
    magic = bytes([0, 0, 8, dimensions])  # two zeros, type unsigned byte, number of dimensions
    if raw[:4] != magic:
        begins = f"{path} is not this IDX file (it begins with {raw[:4].hex(' ') or 'nothing'}, not {magic.hex(' ')})"
        raise InputError(f"{begins}: fetch it again.")
    start = 4 + 4 * dimensions
    if len(raw) < start:
        raise InputError(f"{path} {CUT.format(f'{len(raw)} bytes')}")
    shape = [int(n) for n in np.frombuffer(raw, ">u4", dimensions, offset=4)]
    if len(raw) - start != int(np.prod(shape)):
        raise InputError(f"{path} {CUT.format(f'{len(raw) - start:,} bytes for the shape {shape}')}")
    return np.frombuffer(raw, np.uint8, offset=start).reshape(shape)
