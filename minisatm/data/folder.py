"""A folder of images, with one directory per class."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from ..errors import InputError
from .checked import Progress, check, copies, note_of_copies
from .dataset import Dataset
from .pixels import FORMATS, read_image
from .text import read_lines, same_name, shown

LAYOUT = "lay the images out as DIR/class/image.jpg, one directory per class"
ORDER, SUBJECTS = "classes.txt", "subjects.csv"
# Folders that systems and programs make beside pictures; others of them begin with a dot or an @.
SYSTEM = {"__macosx", "__pycache__", "#recycle", "#snapshot", "$recycle.bin", "recycler", "recycled", "lost+found",
          "system volume information", "network trash folder", "temporary items", "cvs"}  # fmt: skip


def load(directory: str | Path, *, progress: Progress = lambda done, total: None) -> Dataset:
    """Read the images of `directory` as a colour Dataset; each of its directories is a class.

    The classes are in natural order (numbers by their value), or as a file classes.txt lists them, one a line.
    Subjects are named by a file subjects.csv (columns file and subject) or are the directories inside the classes, if
    every image is in one. Hidden files and folders are not read; files whose ending is of none of the formats are left
    out; notes name both. `progress(done, total)` is called as images are checked.
    Raises InputError when there are fewer than two classes, when a class holds no image, when one of the two files does
    not fit the folder, and with a list of the images that do not decode.
    """
    directory = Path(directory)
    classes, order = _classes(directory)
    names, labels, others, hidden = list[str](), list[int](), list[str](), list[str]()
    for label, name in enumerate(classes):
        images, no_images, not_read = _files(directory, name)
        if not images:
            here = shown(directory / name)
            raise InputError(f"{here} holds no image that Pillow reads: add some or remove the directory.")
        names += images
        labels += [label] * len(images)
        others += no_images
        hidden += not_read
    numbers = np.array(labels, np.int64)
    subjects, by = _subjects(directory, names)
    checked = check(directory, names, progress)
    same = copies(checked)
    counts = ", ".join(f"{shown(name)} {labels.count(label):,}" for label, name in enumerate(classes))
    notes = [f"{len(names):,} images of {len(classes)} classes: {counts}"]
    notes += _listed("left out, not images", others) + _listed("left out, hidden", hidden) + [order, by]
    notes += note_of_copies(same, numbers, "copies stay in one part")
    paths = [directory / name for name in names]
    return Dataset(
        name="folder", classes=tuple(map(shown, classes)), labels=numbers, channels=3, notes=tuple(notes),
        read=lambda index: read_image(paths[index]), read_near=lambda index, size: read_image(paths[index], size),
        subjects=subjects, files=tuple(names), contents=tuple(one.content for one in checked), copies=same,
    )  # fmt: skip


def natural(name: str) -> tuple[list[str | int], str]:
    """The key that sorts names with numbers by their value: 0-2, 4-6, 15-20; <5, 5-10, >60; age5, age20."""
    pieces: list[str | int] = [*re.split(r"(^-?\d+|\d+)", name)]
    if len(pieces) > 1:
        pieces = [*re.split(r"(^-?\d+|\d+)", name.lstrip("([{<>≤≥=~ "))]
    pieces[1::2] = [int(number) for number in pieces[1::2]]
    return pieces, name


def is_hidden(name: str) -> bool:
    """Whether a file or folder is one of the system or of a program, which nobody put there as a picture."""
    return name.startswith((".", "@")) or name.lower() in SYSTEM


def _classes(directory: Path) -> tuple[list[str], str]:
    """The names of the class directories in their order, and the note on it."""
    classes = [entry.name for entry in directory.iterdir() if entry.is_dir() and not is_hidden(entry.name)]
    if len(classes) < 2:
        raise InputError(f"{shown(directory)} holds {len(classes)} class directories and two are needed: {LAYOUT}.")
    path = directory / ORDER
    if not path.exists():
        return sorted(classes, key=natural), f"classes in the order of their names; a file {ORDER} can give another"
    listed = [line.strip().rstrip("/\\") for line in _lines(path, "one class a line") if line.strip()]
    by_name = {same_name(name): name for name in classes}
    keys = [same_name(name) for name in listed]
    twice = [name for k, name in enumerate(listed) if keys[k] in keys[:k]]
    unknown = [name for name, key in zip(listed, keys) if key not in by_name]
    left = [by_name[key] for key in sorted(by_name.keys() - set(keys))]
    wrong = [
        f"{what}: {_some(found)}"
        for what, found in (("listed twice", twice), ("no directory", unknown), ("not listed", left))
        if found
    ]
    if wrong:
        raise InputError(
            f"{shown(path)} does not fit the folder ({'; '.join(wrong)}): list each class once, one a line."
        )
    return [by_name[key] for key in keys], f"classes in the order of {ORDER}"


def _files(directory: Path, name: str) -> tuple[list[str], list[str], list[str]]:
    """The files of a class, as names inside `directory`: images, others, and hidden images."""
    from PIL import Image

    formats = {*FORMATS, "MPO"}  # MPO: a JPEG of several pictures, as some cameras write it
    known = {suffix for suffix, format_ in Image.registered_extensions().items() if format_ in formats}
    images, others, hidden = list[str](), list[str](), list[str]()
    for path in sorted(path for path in (directory / name).rglob("*") if path.is_file()):
        inside = path.relative_to(directory)
        is_image = path.suffix.lower() in known or (is_hidden(path.name) and path.name.lower() in known)
        if any(map(is_hidden, inside.parts[1:])):
            hidden += [inside.as_posix()] * is_image
        else:
            (images if is_image else others).append(inside.as_posix())
    return images, others, hidden


def _subjects(directory: Path, names: Sequence[str]) -> tuple[np.ndarray | None, str]:
    """The number of each image's subject, (n,) int64, or None; and the note on how the images are split."""
    path = directory / SUBJECTS
    if path.exists():
        of_file = _table(path)
        known = [of_file.get(same_name(name), "") for name in names]
        if without := [name for name, subject in zip(names, known) if not subject]:
            missing = f"{shown(path)} names no subject for {len(without):,} of {len(names):,} images ({_some(without)})"
            raise InputError(f"{missing}: add a line for each, or remove the file.")
        whence = SUBJECTS
    else:
        inside = [PurePosixPath(name).parts[1:-1] for name in names]
        if not all(inside):
            beside = f"; {sum(map(bool, inside)):,} images are in directories inside the classes" * any(inside)
            reason = f"no subjects are known{beside}, so that one person can be in several parts"
            more = f"a file {SUBJECTS}, or one directory per subject inside each class, would change that"
            return None, f"split by image: {reason} ({more})"
        known, whence = [parts[0] for parts in inside], "the directories inside the classes"
    subjects, numbers = np.unique(known, return_inverse=True)
    return numbers.astype(np.int64), f"split by subject: {len(subjects):,} subjects, named by {whence}"


def _table(path: Path) -> dict[str, str]:
    """{file: subject} of a subjects.csv; its columns are between commas, semicolons or tabs."""
    what = "a line file,subject and then one line for each image"
    lines = _lines(path, what)
    separator = next((mark for mark in ",;\t" if mark in lines[0]), ",")
    rows = csv.reader(lines, delimiter=separator)
    header = [name.strip().lower() for name in next(rows, [])]
    if not {"file", "subject"} <= set(header):
        raise InputError(f"{shown(path)} does not begin with the columns file and subject: write {what}.")
    found: dict[str, str] = {}
    try:
        for row in rows:
            if not "".join(row).strip():
                continue
            here = f"{shown(path)}, line {rows.line_num}: "
            if len(row) != len(header):
                raise InputError(f"{here}{len(row)} columns where the first line has {len(header)}: write {what}.")
            file, subject = (row[header.index(column)].strip() for column in ("file", "subject"))
            file = same_name(file.replace("\\", "/").removeprefix("./"))
            if found.setdefault(file, subject) != subject:
                raise InputError(f"{here}{shown(file)} has two subjects: write each image once.")
    except csv.Error as problem:
        raise InputError(f"{shown(path)}, line {rows.line_num}: {problem}: write {what}.") from None
    return found


def _lines(path: Path, wanted: str) -> list[str]:
    try:
        return read_lines(path)
    except (OSError, UnicodeDecodeError) as problem:
        raise InputError(
            f"{shown(path)} cannot be read as text ({shown(problem)}): write {wanted}, in UTF-8."
        ) from None


def _listed(what: str, names: Sequence[str]) -> list[str]:
    return [f"{what} ({len(names):,}): {_some(names)}"] if names else []


def _some(names: Sequence[str]) -> str:
    return ", ".join(map(shown, names[:3])) + ", ..." * (len(names) > 3)
