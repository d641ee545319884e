"""What every data set is made of: labels in memory, images read one at a time, and the parts it is split into."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ..errors import InputError
from ..streams import stream

FOLDS = 5
TEST_SHARE = 0.2  # of a data set that brings neither folds nor a test set of its own


class Split(NamedTuple):
    """Three disjoint, sorted arrays of image indices."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


@dataclass(frozen=True)
class Dataset:
    """Labelled images that are read only when asked for.

    labels (n,) int64 index `classes`, whose order is the ordinal order of age groups. `read(i)` is image i as uint8
    (h, w, channels), channels 1 or 3; `read_near(i, size)`, where given, is the same image perhaps scaled down to
    no less than `size` pixels each way, faster. subjects (n,) and folds (n,) int64, official_test (n,) bool, or None.
    `notes` are lines to print before training; `mirror`: may training mirror the images? `missing`: images that are
    listed but not there.
    Raises InputError when there are no images, fewer than two classes, or a label that is no class.
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

    def __post_init__(self):
        if len(self.classes) < 2:
            raise InputError(f"{self.name}: {len(self.classes)} class to tell apart: two or more are needed")
        if len(self.labels) == 0:
            raise InputError(f"{self.name}: no images: check the directory")
        wrong = (self.labels < 0) | (self.labels >= len(self.classes))
        if wrong.any():
            raise InputError(
                f"{self.name}: image {int(wrong.argmax())} has label {int(self.labels[wrong][0])}, but the "
                f"{len(self.classes)} classes are 0 to {len(self.classes) - 1}: check the labels"
            )

    def __len__(self):
        return len(self.labels)

    def split(self, *, fold=0, seed=0, validation=0.1):
        """Divide the images into Split(train, validation, test), the same for the same seed.

        With folds, the test part is `fold`; with a test set of the data's own, that; otherwise a random fifth, balanced
        over the classes where no subjects are known. `validation` is a share of what the test part leaves, drawn by
        subject (of all images in the last case: 70/10/20). No subject is in two parts.
        Raises InputError for a fold that does not exist and when a part would be empty.
        """
        if not 0 <= validation < 1:
            raise InputError(f"a validation share of {validation}: give 0 or more and less than 1")
        rng = stream(seed, "split")
        if self.folds is not None:
            if fold not in range(FOLDS):
                raise InputError(f"fold {fold} does not exist: choose 0, 1, 2, 3 or 4")
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
                raise InputError(f"{self.name}: no images left for the {name} part{where}: add images or subjects")
        return parts

    def _draw(self, rng, among, share):
        """Mask of about `share` of the images in mask `among`: whole subjects, or a share of every class."""
        chosen = np.zeros(len(self), bool)
        if self.subjects is not None:
            subjects, counts = np.unique(self.subjects[among], return_counts=True)
            order = rng.permutation(len(subjects))
            before = np.cumsum(counts[order]) - counts[order] / 2
            chosen[among] = np.isin(self.subjects[among], subjects[order[before < share * counts.sum()]])
        else:
            for label in range(len(self.classes)):
                members = rng.permutation(np.flatnonzero(among & (self.labels == label)))
                chosen[members[: round(share * len(members))]] = True
        return chosen
