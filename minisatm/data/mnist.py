"""MNIST (LeCun, Cortes and Burges): 70,000 handwritten digits in four IDX files, gzipped or not."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import numpy as np

from ..errors import InputError
from .dataset import Dataset

SIDE = 28
CUT = "is cut short or damaged ({}): fetch it again."


def load(directory: str | Path) -> Dataset:
    """Read the digits as a Dataset of ten classes, 28 x 28 x 1, with MNIST's published test set; in memory (55 MB).

    Raises InputError with the file's name when it is missing, cut, of another kind, or has a label above 9.
    """
    directory = Path(directory)
    images, labels = [], []
    for part in ("train", "t10k"):
        pixels = _idx(directory, f"{part}-images-idx3-ubyte", 3)
        digits = _idx(directory, f"{part}-labels-idx1-ubyte", 1)
        if pixels.shape[1:] != (SIDE, SIDE):
            raise InputError(
                f"{directory}/{part}-images-idx3-ubyte: images of {pixels.shape[1]} x {pixels.shape[2]} pixels where "
                "MNIST has 28 x 28: fetch the file again."
            )
        if len(pixels) != len(digits):
            raise InputError(
                f"{directory}: {len(pixels):,} {part} images but {len(digits):,} labels: fetch both files again."
            )
        if len(digits) and digits.max() > 9:
            raise InputError(f"{directory}/{part}-labels-idx1-ubyte: label {digits.max()} is no digit: fetch it again.")
        images.append(pixels)
        labels.append(digits)
    pixels = np.concatenate(images)[..., None]
    return Dataset(
        name="mnist",
        classes=tuple("0123456789"),
        labels=np.concatenate(labels).astype(np.int64),
        read=lambda index: pixels[index],
        channels=1,
        official_test=np.arange(len(pixels)) >= len(images[0]),
        notes=(f"{len(images[0]):,} training and {len(images[1]):,} test digits of 28 x 28 pixels",),
        mirror=False,
    )


def _idx(directory: Path, name: str, dimensions: int) -> np.ndarray:
    """Return an IDX file's unsigned bytes as a uint8 array of the shape in its header."""
    path = next((path for path in (directory / name, directory / f"{name}.gz") if path.is_file()), None)
    if path is None:
        raise InputError(f"{directory / name}.gz is missing: put MNIST's four files there, gzipped or not.")
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            raw = file.read()
    except (OSError, EOFError, zlib.error) as problem:
        raise InputError(f"{path} {CUT.format(problem)}") from None
    magic = bytes([0, 0, 8, dimensions])  # two zeros, type unsigned byte, number of dimensions
    if raw[:4] != magic:
        raise InputError(
            f"{path} is not this IDX file (it begins with {raw[:4].hex(' ') or 'nothing'}, not {magic.hex(' ')}): "
            "fetch it again."
        )
    start = 4 + 4 * dimensions
    if len(raw) < start:
        raise InputError(f"{path} {CUT.format(f'{len(raw)} bytes')}")
    shape = [int(n) for n in np.frombuffer(raw, ">u4", dimensions, offset=4)]
    if len(raw) - start != int(np.prod(shape)):
        raise InputError(f"{path} {CUT.format(f'{len(raw) - start:,} bytes for the shape {shape}')}")
    return np.frombuffer(raw, np.uint8, offset=start).reshape(shape)
