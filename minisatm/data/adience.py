"""Adience (Eidinger, Enbar and Hassner 2014): faces of eight age groups in five subject-disjoint folds.

A folder holds `fold_0_data.txt` ... `fold_4_data.txt` and the aligned images,
`aligned/<user_id>/landmark_aligned_face.<face_id>.<original_image>`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import InputError
from .checked import Progress, check, copies, note_of_copies
from .dataset import FOLDS, Dataset
from .pixels import read_image
from .text import read_lines, shown

HEADER = "user_id\toriginal_image\tface_id\tage\tgender\tx\ty\tdx\tdy\ttilt_ang\tfiducial_yaw_angle\tfiducial_score"
WIDTH = HEADER.count("\t") + 1
GROUPS = ("(0, 2)", "(4, 6)", "(8, 12)", "(15, 20)", "(25, 32)", "(38, 43)", "(48, 53)", "(60, 100)")
BOUNDS = np.array([[int(n) for n in re.findall(r"\d+", group)] for group in GROUPS])
LONGEST = 255  # characters of a field: no system has longer file names
POLICIES = ("strict", "strict+fix", "mapped")
PAPER = 'The paper counts 26,580 faces and says "8-13"; these files list {:,} and say "(8, 12)".'
DRAWN = "These are drawn faces in place of Adience: results on them say nothing about photographs."
AGAIN = "fetch it again."
STAND_IN = "or make a stand-in with `python -m minisatm.data.faces DIR`"


@dataclass(frozen=True)
class Face:
    """A row of a fold file; group is the index of its age group, or None when the face is not used."""

    user: str
    image: str
    face: str
    fold: int
    age: str
    group: int | None

    @property
    def path(self) -> str:
        """The path of the aligned image inside the data folder."""
        return f"aligned/{self.user}/landmark_aligned_face.{self.face}.{self.image}"


def group_of(age: str, labels: str = "strict") -> int | None:
    """Return the index 0..7 of the age group for the label `age` under a policy, or None when it has no group.

    strict: only the eight labels have a group. strict+fix: also (25, 23), a typing error of the files for (25, 32).
    mapped: also every other age or range; its group is the one nearest to its middle (the younger of two).
    """
    if labels not in POLICIES:
        raise InputError(f"labels {labels!r} are not known: choose {', '.join(POLICIES)}.")
    if labels != "strict" and age == "(25, 23)":
        age = "(25, 32)"
    if age in GROUPS:
        return GROUPS.index(age)
    years = re.findall(r"\d+", age)
    if labels != "mapped" or not years or len(max(years, key=len)) > 3:  # nobody is 1000 years old
        return None
    middle = sum(map(int, years)) / len(years)
    return int(np.argmin(np.maximum(0, np.maximum(BOUNDS[:, 0] - middle, middle - BOUNDS[:, 1]))))


def read_folds(directory: str | Path, labels: str = "strict") -> tuple[list[Face], list[str]]:
    """Read the five fold files: (faces, notes), each face once, in file order. The images are not needed.

    A face whose label has no group is listed with group None. Raises InputError with the file and the line when a file
    is missing or malformed, and when one subject (user_id, face_id) is in two folds.
    """
    directory = Path(directory)
    group_of("", labels)  # a wrong policy is an error before any file is read
    rows = [face for fold in range(FOLDS) for face in _read_fold(directory, fold, labels)]
    by_image: dict[tuple[str, str, str], Face] = {}
    fold_of: dict[tuple[str, str], int] = {}
    for face in rows:
        by_image.setdefault((face.user, face.face, face.image), face)
        first = fold_of.setdefault((face.user, face.face), face.fold)
        if first != face.fold:
            subject = f"{shown(directory)}: subject {face.user} {face.face} is in folds {first} and {face.fold}"
            raise InputError(f"{subject}, and folds must not share a subject: fetch the five files again.")
    faces = list(by_image.values())
    return faces, _notes(rows, faces, labels, drawn=(directory / "faces.json").is_file())


def _read_fold(directory: Path, fold: int, labels: str) -> Iterator[Face]:
    path = directory / f"fold_{fold}_data.txt"
    try:
        lines = read_lines(path)
    except FileNotFoundError:
        raise InputError(f"{shown(path)} is missing: put Adience's five fold files there, {STAND_IN}.") from None
    except (OSError, UnicodeDecodeError) as problem:
        raise InputError(f"{shown(path)} cannot be read as text ({problem}): {AGAIN}") from None
    if lines[0] != HEADER:
        raise InputError(f"{shown(path)}, line 1: not Adience's header of {WIDTH} tab-separated columns: {AGAIN}")
    if lines.pop() != "" or not lines[1:]:
        raise InputError(
            f"{shown(path)}, line {len(lines) + 1}: cut short (no face, or no line break at its end): {AGAIN}"
        )
    for number, line in enumerate(lines[1:], 2):
        fields = line.split("\t")
        here = f"{shown(path)}, line {number}: "
        if len(fields) != WIDTH:
            raise InputError(f"{here}{len(fields)} columns where Adience has {WIDTH}: {AGAIN}")
        if not line.replace("\t", "").isprintable() or len(max(fields, key=len)) > LONGEST:
            odd = f"characters that are not text, or a field of more than {LONGEST}"
            raise InputError(f"{here}{odd}: {AGAIN}")
        user, image, face, age = fields[:4]
        if not (user and image and face and age):
            raise InputError(f"{here}{WIDTH} columns, but one of the first four is empty: {AGAIN}")
        if {"/", "\\"} & set(user + image + face) or user in (".", ".."):
            raise InputError(f"{here}{user!r}, {image!r} are not plain names: {AGAIN}")
        yield Face(user, image, face, fold, age, group_of(age, labels))


def _notes(rows: list[Face], faces: list[Face], labels: str, drawn: bool) -> list[str]:
    dropped = Counter(face.age for face in faces if face.group is None)
    per_fold = Counter(face.fold for face in faces if face.group is not None)
    repeated, subjects = len(rows) - len(faces), len({(face.user, face.face) for face in faces})
    notes = [
        f"{len(rows):,} rows, {repeated:,} of them repeated: {len(faces):,} faces listed of {subjects:,} subjects",
        DRAWN if drawn else PAPER.format(len(faces)),
        f"labels {labels}: {per_fold.total():,} faces, by fold {' '.join(f'{per_fold[k]:,}' for k in range(FOLDS))}",
    ]
    if dropped:
        listed = ", ".join(f"{age} {count:,}" for age, count in dropped.most_common(6)) + ", ..." * (len(dropped) > 6)
        notes.append(f"dropped {dropped.total():,} faces without one of the eight labels: {listed}")
    return notes


def load(
    directory: str | Path, *, labels: str = "strict", progress: Progress | None = lambda done, total: None
) -> Dataset:
    """Read Adience, or drawn faces in its format, as a Dataset of eight age groups with subjects and folds.

    labels: a policy of `group_of`. Images that the fold files list but that are missing are left out and named in the
    notes. Raises InputError as `read_folds` does, when all images are missing, and with a list of those that do not
    decode. `progress(done, total)` is called as images are checked; None: they are not checked.
    """
    directory = Path(directory)
    faces, notes = read_folds(directory, labels)
    listed = [face for face in faces if face.group is not None]
    if not listed:
        raise InputError(
            f"{shown(directory)}: no face has one of the labels {' '.join(GROUPS)}: fetch the fold files again."
        )
    # One listing of the folders is faster than a look-up for each image.
    there = {path.relative_to(directory).as_posix() for path in directory.glob("aligned/*/*")}
    used = [face for face in listed if face.path in there]
    missing = [face.path for face in listed if face.path not in there]
    if not used:
        absent = (
            f"{shown(directory)}: none of the {len(listed):,} listed images is there, the first would be {missing[0]}"
        )
        raise InputError(f"{absent}: unpack Adience's aligned.tar.gz so that this path exists, {STAND_IN}.")
    labels_used, folds = (np.array(values, np.int64) for values in zip(*((face.group, face.fold) for face in used)))
    names = tuple(face.path for face in used)
    contents: tuple[str, ...] = ("",) * len(names)
    same = None
    if progress is not None:
        checked = check(directory, names, progress)
        contents, same = tuple(one.content for one in checked), copies(checked)
        notes += note_of_copies(same, labels_used, "the published folds stay as they are")
    if missing:
        some = ", ".join(missing[:3]) + ", ..." * (len(missing) > 3)
        notes.append(f"{len(missing):,} listed images are missing and left out (missing_images.txt): {some}")
    numbers: dict[tuple[str, str], int] = {}  # a subject's number
    paths = [directory / name for name in names]
    return Dataset(
        name="adience", classes=GROUPS, labels=labels_used, channels=3,
        subjects=np.array([numbers.setdefault((face.user, face.face), len(numbers)) for face in used], np.int64),
        folds=folds, notes=tuple(notes), missing=tuple(missing),
        read=lambda index: read_image(paths[index]), read_near=lambda index, size: read_image(paths[index], size),
        files=names, contents=contents, copies=same,
    )  # fmt: skip
