"""A folder of images, with one directory per class."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..errors import InputError
from .dataset import Dataset
from .pixels import read_image

LAYOUT = "lay the images out as DIR/class/image.jpg, one directory per class"


def load(directory: str | Path) -> Dataset:
    """Read the images of `directory` as a colour Dataset; its classes are the names of the directories, sorted.

    Files whose ending is none of an image format that Pillow reads are left out and named in the notes. Raises
    InputError when there are fewer than two classes, and when a class holds no image.
    """
    from PIL import Image

    directory = Path(directory)
    known = {suffix for suffix, format_ in Image.registered_extensions().items() if format_ in Image.OPEN}
    classes = sorted(entry.name for entry in directory.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if len(classes) < 2:
        raise InputError(f"{directory} holds {len(classes)} class directories and two are needed: {LAYOUT}.")
    paths, labels, others = [], [], []
    for label, name in enumerate(classes):
        files = sorted(path for path in (directory / name).rglob("*") if path.is_file() and path.name[0] != ".")
        images = [path for path in files if path.suffix.lower() in known]
        if not images:
            raise InputError(f"{directory / name} holds no image that Pillow reads: add some or remove the directory.")
        others.extend([path for path in files if path.suffix.lower() not in known])
        paths.extend(images)
        labels.extend([label] * len(images))
    counts = ", ".join(f"{name} {labels.count(label):,}" for label, name in enumerate(classes))
    notes = [f"{len(paths):,} images of {len(classes)} classes: {counts}"]
    if others:
        listed = ", ".join(str(path.relative_to(directory)) for path in others[:3])
        notes.append(f"left out, not images ({len(others):,}): {listed}" + ", ..." * (len(others) > 3))
    return Dataset(
        name="folder", classes=tuple(classes), labels=np.array(labels, np.int64), channels=3, notes=tuple(notes),
        read=lambda index: read_image(paths[index]), read_near=lambda index, size: read_image(paths[index], size),
    )  # fmt: skip
