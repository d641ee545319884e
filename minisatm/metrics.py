"""Classification rate, one-off rate (Eq. 4 of the paper) and their intervals.

Rates are fractions of 1. The age groups are ordinal: group k is next to k - 1 and k + 1. A matrix is (C, C) counts.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .errors import InputError

Array = Any


def confusion_matrix(true: Array, predicted: Array, classes: int) -> Array:
    """Count how often images of each true class got each answer: confusion_matrix[c, k] of Eq. 4.

    true and predicted (N,) integers in 0..classes-1. Returns (C, C) int64: row the true class, column the answer.
    Raises InputError for no images, different lengths, or a label that is no class.
    """
    true, predicted = _labels(true, classes, "true"), _labels(predicted, classes, "predicted")
    if len(true) != len(predicted):
        raise InputError(f"{len(true)} true labels but {len(predicted)} predicted: give both for the same images.")
    return np.bincount(true * classes + predicted, minlength=classes * classes).reshape(classes, classes)


def classification_rate(matrix: Array) -> float:
    """The share of images whose answer is their true class (Section 5). Raises InputError for an empty matrix."""
    matrix = _counts(matrix)
    return float(np.trace(matrix) / matrix.sum())


def one_off(matrix: Array) -> float:
    """The share of images whose answer is their true class or one next to it: Eq. 4 of the paper.

    Raises InputError for an empty matrix.
    """
    matrix = _counts(matrix)
    return float(sum(np.trace(matrix, offset) for offset in (-1, 0, 1)) / matrix.sum())


def interval(rate: float, n: int, z: float = 1.96) -> tuple[float, float]:
    """The Wilson score interval of a rate; z = 1.96 gives 95 %.

    rate in [0, 1] over n images. Returns (low, high), inside [0, 1]. Raises InputError for n < 1 or another rate.
    Wilson 1927.
    """
    if n < 1:
        raise InputError(f"There is no interval of a rate over {n} images: give at least one image.")
    if not 0 <= rate <= 1:
        raise InputError(f"{rate} is not a rate: give a fraction between 0 and 1 (divide percent by 100).")
    shrink = 1 + z * z / n
    centre = (rate + z * z / (2 * n)) / shrink
    half = z * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n)) / shrink
    # The clamps only undo rounding: at 0 and 1 the exact interval touches the rate.
    return max(0.0, min(centre - half, rate)), min(1.0, max(centre + half, rate))


def rates(matrix: Array) -> dict[str, Any]:
    """n, rate and one_off of a confusion matrix with their 95 % intervals, as the fields of a Row have them."""
    n, rate, near = int(matrix.sum()), classification_rate(matrix), one_off(matrix)
    (low, high), (near_low, near_high) = interval(rate, n), interval(near, n)
    return dict(n=n, rate=rate, rate_low=low, rate_high=high,
                one_off=near, one_off_low=near_low, one_off_high=near_high)  # fmt: skip


def majority_rate(labels: Array, classes: int) -> tuple[int, float, float]:
    """The one answer that is right most often when every image gets it: (class index, rate, one-off).

    labels (N,) integers in 0..classes-1. Of several such classes it is the first. Raises InputError for no labels or
    a label that is no class.
    """
    labels = _labels(labels, classes, "true")
    group = int(np.bincount(labels, minlength=classes).argmax())
    return group, float(np.mean(labels == group)), float(np.mean(abs(labels - group) <= 1))


def paired_difference(correct_a: Array, correct_b: Array, z: float = 1.96) -> tuple[float, float, float]:
    """rate(a) - rate(b) on the same images, with its interval; z = 1.96 gives 95 %.

    correct_a and correct_b (N,) booleans, image by image. Returns (difference, low, high) as fractions of 1.
    Only the images on which a and b disagree count. One pseudo-image of each kind of disagreement keeps the width
    above zero when they never disagree. Raises InputError for no images or different lengths. Bonett and Price 2012.
    """
    a, b = np.asarray(correct_a, bool), np.asarray(correct_b, bool)
    if a.shape != b.shape or a.ndim != 1 or not len(a):
        raise InputError(f"{a.size} answers of a but {b.size} of b: give both for the same images, at least one.")
    n, only_a, only_b = len(a), int(np.sum(a & ~b)), int(np.sum(b & ~a))
    p, q = (only_a + 1) / (n + 2), (only_b + 1) / (n + 2)
    half = z * math.sqrt((p + q - (p - q) ** 2) / (n + 2))
    return (only_a - only_b) / n, max(-1.0, p - q - half), min(1.0, p - q + half)


def _labels(values: Array, classes: int, what: str) -> Array:
    values = np.asarray(values)
    if values.ndim != 1 or not len(values):
        raise InputError(f"The {what} labels have shape {values.shape}: give one per image, for at least one image.")
    if values.dtype.kind not in "iu":
        raise InputError(f"The {what} labels are {values.dtype}: give integers, the index of each class.")
    if values.min() < 0 or values.max() >= classes:
        wrong = values[(values < 0) | (values >= classes)][0]
        raise InputError(f"The {what} label {wrong} is not one of the {classes} classes: use 0 to {classes - 1}.")
    return values.astype(np.int64)


def _counts(matrix: Array) -> Array:
    matrix = np.asarray(matrix)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise InputError(f"A confusion matrix is square, this one is {matrix.shape}: build it with confusion_matrix.")
    if (matrix < 0).any() or not matrix.sum() > 0:
        raise InputError("The confusion matrix counts no images: build it with confusion_matrix.")
    return matrix
