"""Adience (Eidinger, Enbar and Hassner 2014): faces of eight age groups in five subject-disjoint folds.

A folder holds `fold_0_data.txt` ... `fold_4_data.txt` and the aligned images,
`aligned/<user_id>/landmark_aligned_face.<face_id>.<original_image>`.
"""

import os
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import InputError
from .dataset import FOLDS, Dataset
from .pixels import read_image

HEADER = "user_id\toriginal_image\tface_id\tage\tgender\tx\ty\tdx\tdy\ttilt_ang\tfiducial_yaw_angle\tfiducial_score"
WIDTH = HEADER.count("\t") + 1
GROUPS = ("(0, 2)", "(4, 6)", "(8, 12)", "(15, 20)", "(25, 32)", "(38, 43)", "(48, 53)", "(60, 100)")
BOUNDS = np.array([[int(n) for n in re.findall(r"\d+", group)] for group in GROUPS])
POLICIES = ("strict", "strict+fix", "mapped")
PAPER = 'The paper counts 26,580 faces and says "8-13"; these files list {:,} and say "(8, 12)".'
DRAWN = "Drawn faces that stand in for Adience: figures on them say nothing about photographs."
STAND_IN = "or make a stand-in with `python -m minisatm.data.faces DIR`"


@dataclass(frozen=True)
class Face:
    """One row of a fold file: whose face, on which image, in which fold, of which group (None: not used)."""

    user: str
    image: str
    face: str
    fold: int
    age: str
    group: int | None

    @property
    def path(self):
        """Where the aligned image lies inside the data folder."""
        return f"aligned/{self.user}/landmark_aligned_face.{self.face}.{self.image}"


def group_of(age, labels="strict"):
    """Index 0..7 of the age group that the label `age` stands for under a policy, or None when it stands for none.

    strict takes the eight labels as they are; strict+fix also reads (25, 23) as (25, 32), a slip of the files; mapped
    also takes every other age or range to the group whose range is nearest to its middle (the younger when two are).
    """
    if labels not in POLICIES:
        raise InputError(f"labels {labels!r} are not known: choose {', '.join(POLICIES)}")
    if labels != "strict" and age == "(25, 23)":
        age = "(25, 32)"
    if age in GROUPS:
        return GROUPS.index(age)
    years = [int(n) for n in re.findall(r"\d+", age)]
    if labels != "mapped" or not years:
        return None
    middle = sum(years) / len(years)
    return int(np.argmin(np.maximum(0, np.maximum(BOUNDS[:, 0] - middle, middle - BOUNDS[:, 1]))))


def read_folds(directory, labels="strict"):
    """Read the five fold files: (faces, notes), each face once, in file order; no image is needed.

    Faces whose label stands for no group are listed with group None. Raises InputError naming the file and the line
    when a file is missing or malformed, and when one subject (user_id, face_id) is in two folds.
    """
    directory = Path(directory)
    group_of("", labels)
    rows = [face for fold in range(FOLDS) for face in _read_fold(directory, fold, labels)]
    faces, home = {}, {}
    for face in rows:
        faces.setdefault((face.user, face.face, face.image), face)
        first = home.setdefault((face.user, face.face), face.fold)
        if first != face.fold:
            raise InputError(
                f"{directory}: subject {face.user} {face.face} is in folds {first} and {face.fold}, and folds must not "
                "share a subject: fetch the five files again"
            )
    faces = list(faces.values())
    return faces, _notes(rows, faces, labels, drawn=(directory / "faces.json").is_file())


def _read_fold(directory, fold, labels):
    path = directory / f"fold_{fold}_data.txt"
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError:
        raise InputError(f"{path} is missing: put Adience's five fold files there, {STAND_IN}") from None
    except (OSError, UnicodeDecodeError) as problem:
        raise InputError(f"{path} cannot be read as text ({problem}): fetch it again") from None
    if lines[0] != HEADER:
        raise InputError(f"{path}, line 1: not Adience's header of {WIDTH} tab-separated columns: fetch it again")
    if lines.pop() != "" or not lines[1:]:
        raise InputError(
            f"{path}, line {len(lines) + 1}: cut short (no face, or no line break at its end): fetch it again"
        )
    for number, line in enumerate(lines[1:], 2):
        fields = line.split("\t")
        if len(fields) != WIDTH or not all(fields[:4]):
            raise InputError(
                f"{path}, line {number}: {len(fields)} columns where Adience has {WIDTH}, or one of the first "
                "four is empty: fetch the file again"
            )
        user, image, face, age = fields[:4]
        if {"/", "\\"} & set(user + image + face) or user in (".", ".."):
            raise InputError(f"{path}, line {number}: {user!r}, {image!r} name no plain file: fetch the file again")
        yield Face(user, image, face, fold, age, group_of(age, labels))


def _notes(rows, faces, labels, drawn):
    used = [face for face in faces if face.group is not None]
    dropped = Counter(face.age for face in faces if face.group is None)
    per_fold = Counter(face.fold for face in used)
    subjects = {(face.user, face.face) for face in faces}
    notes = [
        f"{len(rows):,} rows, {len(rows) - len(faces):,} of them repeated: {len(faces):,} faces listed of "
        f"{len(subjects):,} subjects",
        DRAWN if drawn else PAPER.format(len(faces)),
        f"labels {labels}: {len(used):,} faces, by fold {' '.join(f'{per_fold[k]:,}' for k in range(FOLDS))}",
    ]
    if dropped:
        listed = ", ".join(f"{age} {count:,}" for age, count in dropped.most_common(6)) + ", ..." * (len(dropped) > 6)
        notes.append(f"dropped {sum(dropped.values()):,} faces without one of the eight labels: {listed}")
    return notes


def load(directory, *, labels="strict"):
    """Adience, or drawn faces in its format, as a Dataset of eight age groups with subjects and folds.

    `labels` is a policy of `group_of`. Images that the fold files list but that are not there are left out and named in
    the notes. Raises InputError as `read_folds` does, and when none of the images is there.
    """
    directory = Path(directory)
    faces, notes = read_folds(directory, labels)
    listed = [face for face in faces if face.group is not None]
    if not listed:
        raise InputError(f"{directory}: no face has one of the labels {' '.join(GROUPS)}: fetch the fold files again")
    there = _names(directory / "aligned", {face.user for face in listed})
    used = [face for face in listed if face.path in there]
    missing = [face.path for face in listed if face.path not in there]
    if not used:
        raise InputError(
            f"{directory}: none of the {len(listed):,} listed images is there, the first would be {missing[0]}: unpack "
            f"Adience's aligned.tar.gz so that this path exists, {STAND_IN}"
        )
    if missing:
        listed = ", ".join(missing[:3]) + ", ..." * (len(missing) > 3)
        notes.append(f"{len(missing):,} listed images are missing and left out (missing_images.txt): {listed}")
    numbers = {}
    paths = [str(directory / face.path) for face in used]
    return Dataset(
        name="adience",
        classes=GROUPS,
        labels=np.array([face.group for face in used], np.int64),
        read=lambda index: read_image(paths[index]),
        channels=3,
        subjects=np.array([numbers.setdefault((face.user, face.face), len(numbers)) for face in used], np.int64),
        folds=np.array([face.fold for face in used], np.int64),
        notes=tuple(notes),
        read_near=lambda index, size: read_image(paths[index], size),
        missing=tuple(missing),
    )


def _names(aligned, users):
    """The files under `aligned`, as paths from the data folder: one listing a folder, not one look-up an image."""
    names = set()
    for user in users:
        try:
            names.update(f"aligned/{user}/{name}" for name in os.listdir(aligned / user))
        except (FileNotFoundError, NotADirectoryError):
            continue
    return names
