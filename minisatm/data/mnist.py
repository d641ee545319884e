"""MNIST (LeCun, Cortes and Burges): 70,000 handwritten digits in four IDX files, gzipped or not."""

import gzip
import zlib
from pathlib import Path

import numpy as np

from ..errors import InputError
from .dataset import Dataset

SIDE = 28
CUT = "the file is cut or damaged: fetch it again"


def load(directory):
    """The digits as a Dataset of ten classes, 28 x 28 x 1, with MNIST's own test set; held in memory (55 MB).

    Raises InputError naming the file when one of the four is missing, cut, of another kind, or holds a label above 9.
    """
    directory = Path(directory)
    images, labels = [], []
    for part in ("train", "t10k"):
        pixels = _idx(directory, f"{part}-images-idx3-ubyte", 3)
        digits = _idx(directory, f"{part}-labels-idx1-ubyte", 1)
        if pixels.shape[1:] != (SIDE, SIDE):
            raise InputError(
                f"{directory}/{part}-images-idx3-ubyte: images of {pixels.shape[1]} x {pixels.shape[2]} pixels where "
                "MNIST has 28 x 28: fetch the file again"
            )
        if len(pixels) != len(digits):
            raise InputError(
                f"{directory}: {len(pixels):,} {part} images but {len(digits):,} labels: fetch both files again"
            )
        if len(digits) and digits.max() > 9:
            raise InputError(f"{directory}/{part}-labels-idx1-ubyte: label {digits.max()} is no digit: fetch it again")
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


def _idx(directory, name, dimensions):
    """One IDX file of unsigned bytes, as uint8 of its own shape."""
    path = next((path for path in (directory / name, directory / f"{name}.gz") if path.is_file()), None)
    if path is None:
        raise InputError(f"{directory / name}.gz is missing: put MNIST's four files there, gzipped or not")
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            raw = file.read()
    except (OSError, EOFError, zlib.error) as problem:
        raise InputError(f"{path}: {CUT} ({problem})") from None
    magic = bytes([0, 0, 8, dimensions])  # two zeros, type unsigned byte, number of dimensions
    if raw[:4] != magic:
        raise InputError(
            f"{path} begins with {raw[:4].hex(' ') or 'nothing'} where {magic.hex(' ')} is due: not this IDX file, "
            "fetch it again"
        )
    start = 4 + 4 * dimensions
    if len(raw) < start:
        raise InputError(f"{path}: {CUT} ({len(raw)} bytes)")
    shape = [int(n) for n in np.frombuffer(raw, ">u4", dimensions, offset=4)]
    if len(raw) - start != int(np.prod(shape)):
        raise InputError(f"{path}: {CUT} ({len(raw) - start:,} bytes of data where {shape} is due)")
    return np.frombuffer(raw, np.uint8, offset=start).reshape(shape)
