"""A data set: labels in memory, images that are read one at a time, and the parts it is split into."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ..errors import InputError
from ..streams import stream

FOLDS = 5
TEST_SHARE = 0.2  # of a data set without folds and without a published test set


class Split(NamedTuple):
    """Three disjoint, sorted arrays of image indices."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


@dataclass(frozen=True)
class Dataset:
    """Labelled images that are read only when they are needed.

    labels (n,) int64 index `classes`, which are in ordinal order for age groups. `read(i)` returns image i as uint8
    (h, w, channels), channels 1 or 3; `read_near(i, size)`, where given, is faster: the same image, perhaps scaled down
    to no less than `size` pixels each way. subjects (n,) and folds (n,) int64, official_test (n,) bool, or None.
    notes: lines to print before training. mirror: whether training may mirror the images. missing: images that are
    listed but not there. files: the images' names inside the data folder; contents: digests of their files. copies (n,)
    int64: exact copies have the same number, and `split` keeps them in one part where it draws the parts.
    Raises InputError for no images, fewer than two classes, or a label that is no class.
    """

    name: str
    classes: tuple[str, ...]
    labels: np.ndarray
    read: Callable[[int], np.ndarray]
    channels: int
    subjects: np.ndarray | None = None
    folds: np.ndarray | None = None
    official_test: np.ndarray | None = None
    notes: tuple[str, ...] = ()
    mirror: bool = True
    read_near: Callable[[int, int], np.ndarray] | None = None
    missing: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    contents: tuple[str, ...] = ()
    copies: np.ndarray | None = None

    def __post_init__(self) -> None:
        classes = len(self.classes)
        if classes < 2:
            raise InputError(f"{self.name} has {classes} class: give two or more.")
        if len(self.labels) == 0:
            raise InputError(f"{self.name} has no images: check the directory.")
        wrong = np.flatnonzero((self.labels < 0) | (self.labels >= classes))
        if len(wrong):
            bad = f"{self.name}: image {wrong[0]} has label {self.labels[wrong[0]]}"
            raise InputError(f"{bad}, but the {classes} classes are 0 to {classes - 1}: check the labels.")

    def __len__(self) -> int:
        return len(self.labels)

    def split(self, *, fold: int = 0, seed: int = 0, validation: float = 0.1) -> Split:
        """Divide the images into Split(train, validation, test), the same for the same seed.

        The test part is `fold` where there are folds; else the published test set; else a random fifth, balanced over
        the classes if no subjects are known. validation: the share of the other images, or in the last case of all
        images (70/10/20), drawn by subject where there are subjects. No subject is in two parts; nor are exact copies
        of an image, where parts are drawn.
        Raises InputError for a fold that does not exist, and when a part would be empty.
        """
        if not 0 <= validation < 1:
            raise InputError(f"a validation share of {validation}: give 0 or more and less than 1.")
        rng = stream(seed, "split")
        if self.folds is not None:
            if fold not in range(FOLDS):
                raise InputError(f"fold {fold} does not exist: choose 0, 1, 2, 3 or 4.")
            test = self.folds == fold
        elif self.official_test is not None:
            test = self.official_test
        else:
            test = self._draw(rng, np.ones(len(self), bool), TEST_SHARE)
            validation /= 1 - TEST_SHARE
        held = self._draw(rng, ~test, validation)
        parts = Split(*(np.flatnonzero(part) for part in (~test & ~held, held, test)))
        for name, part in parts._asdict().items():
            if len(part) == 0 and not (name == "validation" and validation == 0):
                where = f" with fold {fold}" if self.folds is not None else ""
                raise InputError(f"{self.name}: no images left for the {name} part{where}: add images or subjects.")
        return parts

    def _draw(self, rng: np.random.Generator, among: np.ndarray, share: float) -> np.ndarray:
        """Return a mask of about `share` of the images in mask `among`: whole subjects, or a share of each class."""
        chosen = np.zeros(len(self), bool)
        if self.subjects is not None:
            whose = self._subjects_with_copies()[among]
            subjects, counts = np.unique(whose, return_counts=True)
            order = rng.permutation(len(subjects))
            middle = np.cumsum(counts[order]) - counts[order] / 2  # rounds: a subject more than half inside is taken
            inside = middle < share * counts.sum()
            if share > 0 and len(subjects) > 1 and not inside.any():
                inside[np.argmin(counts[order])] = True  # few subjects: one rather than none
            chosen[among] = np.isin(whose, subjects[order[inside]])
        else:
            for label in range(len(self.classes)):
                members = rng.permutation(np.flatnonzero(among & (self.labels == label)))
                chosen[members[: round(share * len(members))]] = True
            if self.copies is not None:
                _, first, group = np.unique(np.where(among, self.copies, -1), return_index=True, return_inverse=True)
                chosen = chosen[first][group]  # copies go where the first of them goes
        return chosen

    def _subjects_with_copies(self) -> np.ndarray:
        """The subjects, where two that share an exact copy of an image are one."""
        assert self.subjects is not None
        merged = self.subjects.copy()
        if self.copies is not None:
            for number in np.flatnonzero(np.bincount(self.copies) > 1):
                whose = np.unique(merged[self.copies == number])
                merged[np.isin(merged, whose)] = whose[0]
        return merged

    def fingerprint(self, split: Split) -> dict[str, str]:
        """Describe the data and its parts in four texts, each equal only for the same data, on any machine.

        classes: the names in their order, as JSON. count: the images of each part. images: a digest of the name, the
        class and the content of every image. split: a digest of the names in each part. The order in which a folder
        lists its files has no say; nor has the place of the folder.
        """
        names = self.files or tuple(map(str, range(len(self))))
        contents = self.contents or [hashlib.sha256(self.read(k).tobytes()).hexdigest() for k in range(len(self))]
        classes = [self.classes[label] for label in self.labels]
        parts = {part: sorted(names[k] for k in indices) for part, indices in split._asdict().items()}
        return dict(
            classes=json.dumps(self.classes, ensure_ascii=False),
            count=", ".join(f"{len(indices):,} {part}" for part, indices in parts.items()),
            images=_digest(sorted(zip(names, classes, contents))),
            split=_digest(parts),
        )


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()
