"""Classification rate, one-off rate (Eq. 4 of the paper) and their intervals; then what the rows of a run say.

Rates are fractions of 1. The age groups are ordinal: group k is next to k - 1 and k + 1.
"""

import math

import numpy as np

from .attacks import ATTACKS
from .errors import InputError

METHODS = (
    "undefended", "control", "standard", "ensemble", "cascade", "teacher", "distillation", "penalty", "satm",
)  # fmt: skip
CONDITIONS = ("clean", "white-box", "partner old", "partner new", "hold-out")
BASELINE = "always "  # how the method of a row begins that answers one class for every image


def confusion_matrix(true, predicted, classes):
    """Counts how often images of each true group were given each group.

    true and predicted (N,) integers in 0..classes-1. Returns (C, C) int64: row the true group, column the answer.
    Raises InputError for no images, different lengths, or a label outside the groups.
    The confusion_matrix[c, k] of Eq. 4.
    """
    true, predicted = _labels(true, classes, "true"), _labels(predicted, classes, "predicted")
    if len(true) != len(predicted):
        raise InputError(
            f"{len(true)} true labels but {len(predicted)} predicted ones: give both for the same images, in one order."
        )
    return np.bincount(true * classes + predicted, minlength=classes * classes).reshape(classes, classes)


def classification_rate(matrix):
    """Computes the share of images that were given their own group.

    matrix (C, C) counts as from confusion_matrix. Returns a fraction. Raises InputError for an empty matrix.
    Section 5 of the paper.
    """
    matrix = _counts(matrix)
    return float(np.trace(matrix) / matrix.sum())


def one_off(matrix):
    """Computes the share of images that were given their own group or one next to it.

    matrix (C, C) counts as from confusion_matrix. Returns a fraction. Raises InputError for an empty matrix.
    Eq. 4 of the paper.
    """
    matrix = _counts(matrix)
    return float(sum(np.trace(matrix, offset) for offset in (-1, 0, 1)) / matrix.sum())


def interval(rate, n, z=1.96):
    """Computes the Wilson score interval of a rate; z = 1.96 gives 95 %.

    rate in [0, 1] over n images. Returns (low, high), inside [0, 1]. Raises InputError for n < 1 or another rate.
    Wilson 1927.
    """
    if n < 1:
        raise InputError(f"An interval over {n} images does not exist: give at least one image.")
    if not 0 <= rate <= 1:
        raise InputError(f"{rate} is not a rate: give a fraction between 0 and 1 (divide percent by 100).")
    shrink = 1 + z * z / n
    centre = (rate + z * z / (2 * n)) / shrink
    half = z * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n)) / shrink
    # The clamps only undo rounding: at 0 and 1 the exact interval touches the rate.
    return max(0.0, min(centre - half, rate)), min(1.0, max(centre + half, rate))


def rates(matrix):
    """Computes n, rate and one_off of a confusion matrix with their 95 % intervals: the columns of every table.

    matrix (C, C) counts. Returns a dict: n, rate, rate_low, rate_high, one_off, one_off_low, one_off_high.
    """
    n, found = int(matrix.sum()), {"rate": classification_rate(matrix), "one_off": one_off(matrix)}
    columns = {"n": n}
    for name, value in found.items():
        low, high = interval(value, n)
        columns |= {name: value, f"{name}_low": low, f"{name}_high": high}
    return columns


def majority_rate(labels, classes):
    """Finds the one group that is right most often when it is always answered.

    labels (N,) integers in 0..classes-1. Returns (group index, rate, one-off), the first group of a tie.
    Raises InputError for no labels or a label outside the groups.
    """
    labels = _labels(labels, classes, "true")
    group = int(np.bincount(labels, minlength=classes).argmax())
    return group, float(np.mean(labels == group)), float(np.mean(abs(labels - group) <= 1))


def paired_difference(correct_a, correct_b, z=1.96):
    """Computes rate(a) - rate(b) on the same images, with its interval; z = 1.96 gives 95 %.

    correct_a and correct_b (N,) booleans, image by image. Returns (difference, low, high) as fractions of 1.
    Only the images on which a and b disagree count. One pseudo-image of each kind of disagreement keeps the width
    above zero when they never disagree. Raises InputError for no images or different lengths. Bonett and Price 2012.
    """
    a, b = _flags(correct_a), _flags(correct_b)
    if len(a) != len(b):
        raise InputError(
            f"{len(a)} answers of a but {len(b)} of b: a paired difference needs the same images for both."
        )
    n, only_a, only_b = len(a), int(np.sum(a & ~b)), int(np.sum(b & ~a))
    p, q = (only_a + 1) / (n + 2), (only_b + 1) / (n + 2)
    half = z * math.sqrt((p + q - (p - q) ** 2) / (n + 2))
    return (only_a - only_b) / n, max(-1.0, p - q - half), min(1.0, p - q + half)


def label(method):
    """Returns the name a reader sees for a method or phase: "satm" is SATM, the others as they are."""
    return "SATM" if method == "satm" else method


def number(value):
    """Converts a cell of a CSV file to a float; what is empty, cut off or not a number becomes nan."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def networks_of(rows, config=None):
    """Lists the trained networks, those of the settings first, then those of results rows; never the hold-out."""
    named, holdout = _named(config), holdout_of(rows, config)
    named = dict.fromkeys([*named, *(row["network"] for row in rows if row.get("network"))])
    return [name for name in named if name != holdout]


def holdout_of(rows, config=None):
    """Returns the name of the network that only lends its examples, or "" when there is none or nothing names it."""
    sources = [row["source"] for row in rows if row.get("condition") == "hold-out" and row.get("source")]
    if sources:
        return sources[0].split("/", 1)[-1]
    holdout = str((config or {}).get("holdout") or "none")
    # A run renames a hold-out that has the name of one of its networks.
    return "" if holdout == "none" else f"hold-out-{holdout}" if holdout in _named(config) else holdout


def methods_of(rows):
    """Lists the methods of results rows, the known ones in the paper's order; baseline rows are left out."""
    found = dict.fromkeys(row["method"] for row in rows if not row["method"].startswith(BASELINE))
    return [m for m in METHODS if m in found] + [m for m in found if m not in METHODS]


def lookup(rows, method, network, condition):
    """Returns one cell of the results as a dict of floats (n, rate, rate_low, ..., one_off_high), or None.

    Several sources of one condition are averaged, rates and interval ends alike: the images are the same, so
    more sources do not make the interval smaller.
    """
    fields = ("n", "rate", "rate_low", "rate_high", "one_off", "one_off_low", "one_off_high")
    key = (method, network, condition)
    found = [
        [number(row.get(field)) for field in fields]
        for row in rows
        if (row.get("method"), row.get("network"), row.get("condition")) == key
    ]
    found = [values for values in found if not math.isnan(values[1])]
    return dict(zip(fields, np.mean(found, axis=0).tolist())) if found else None


def may_leak(config):
    """Whether the attack of the settings reads the true label, which a network could then read from the image."""
    attack = ATTACKS.get(str(config.get("attack")).lower())
    return attack is None or attack.reads_label


def compare_rows(differences):
    """(methods, condition, network, points with interval, verdict) of each row of tables/differences.csv."""
    found = []
    for row in differences or ():
        points, low, high = (100 * number(row.get(key)) for key in ("difference", "low", "high"))
        if not math.isnan(points + low + high):
            verdict = "above" if low > 0 else "below" if high < 0 else "no clear difference"
            what = f"{label(row['method'])} - {row['other']}"
            found.append((what, row["condition"], row["network"], f"{points:+.1f} [{low:+.1f}, {high:+.1f}]", verdict))
    return found


def compared_text(differences):
    """Returns the heading that belongs above compare_rows."""
    counts = sorted({int(n) for n in (number(row.get("n")) for row in differences) if not math.isnan(n)})
    n = f" (n = {', '.join(map(str, counts))})" if counts else ""
    return f"SATM against the others: paired, same test images{n}; points with 95 % interval, one training run"


def readings(rows, config, predicted=None):
    """Sentences computed from the numbers: white-box beside clean, and a warning at each leak of the label."""
    measured = [(n, *(lookup(rows, "satm", n, c) for c in ("white-box", "clean"))) for n in networks_of(rows, config)]
    measured = [(n, attacked["rate"], clean["rate"]) for n, attacked, clean in measured if attacked and clean]
    lines = []
    if measured and all(attacked < clean / 2 for _, attacked, clean in measured):
        whom = {1: measured[0][0], 2: "both networks"}.get(len(measured), f"all {len(measured)} networks")
        rates = ", ".join(f"{100 * attacked:.1f} %" for _, attacked, _ in measured)
        lines.append(f"White-box attacks still break {whom} after SATM ({rates}): it is not a defence against them.")
    elif measured:
        rates = (f"{n} {100 * attacked:.1f} % (clean {100 * clean:.1f} %)" for n, attacked, clean in measured)
        lines.append(f"White-box attacks after SATM: {', '.join(rates)}.")
    return lines + (_leaks(rows, predicted or ()) if may_leak(config) else [])


def _leaks(rows, predicted):
    def case(row):
        return [row.get(key) or "" for key in ("method", "network", "condition", "source")]

    lines, cases = [], [case(row)[:3] for row in rows]
    for row in rows:
        method, network, condition, source = case(row)
        clean, rate = lookup(rows, method, network, "clean"), number(row.get("rate"))
        if condition == "clean" or not clean or not rate > clean["rate"]:
            continue
        origin = f" of {source}" if cases.count([method, network, condition]) > 1 else ""
        again = [number(other.get("rate")) for other in predicted if case(other) == case(row)]
        sure = "beyond" if number(row.get("rate_low")) > clean["rate_high"] else "within"
        lines.append(
            f"WARNING: {label(method)} {network}, {condition}{origin}: {100 * rate:.1f} % beats clean "
            f"{100 * clean['rate']:.1f} %"
            + (f"; crafted from predicted labels, which cannot leak the true one, it is {100 * again[0]:.1f} %."
               if again else f" ({sure} the intervals): the attack may leak the true label; compare with examples "
               "crafted from predicted labels.")
        )  # fmt: skip
    return lines


def _named(config):
    named = (config or {}).get("networks") or []
    named = named.split(",") if isinstance(named, str) else named
    return [str(name).partition("=")[0] for name in named]


def _labels(values, classes, what):
    values = np.asarray(values)
    if values.ndim != 1 or not len(values):
        raise InputError(
            f"The {what} labels have shape {values.shape}: give one label an image, for at least one image."
        )
    if values.dtype.kind not in "iu":
        raise InputError(f"The {what} labels are {values.dtype}: give integers, the index of each group.")
    if values.min() < 0 or values.max() >= classes:
        wrong = values[(values < 0) | (values >= classes)][0]
        raise InputError(f"The {what} label {wrong} is not one of the {classes} groups: use 0 to {classes - 1}.")
    return values.astype(np.int64)


def _counts(matrix):
    matrix = np.asarray(matrix)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise InputError(f"A confusion matrix is square, this one is {matrix.shape}: build it with confusion_matrix.")
    if (matrix < 0).any() or not matrix.sum() > 0:
        raise InputError("The confusion matrix counts no images (or fewer): build it with confusion_matrix.")
    return matrix


def _flags(correct):
    correct = np.asarray(correct)
    if correct.ndim != 1 or not len(correct):
        raise InputError(f"The answers have shape {correct.shape}: give one right-or-wrong an image, at least one.")
    return correct.astype(bool)
