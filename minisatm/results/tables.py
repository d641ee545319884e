"""What the rows of a run say: results by method, network and condition."""

import csv
import json
import math
from pathlib import Path

import numpy as np

from ..attacks import ATTACKS
from ..errors import InputError

METHODS = (
    "undefended", "control", "standard", "ensemble", "cascade", "teacher", "distillation", "penalty", "satm",
)  # fmt: skip
CONDITIONS = ("clean", "white-box", "partner old", "partner new", "hold-out")
BASELINE = "always "  # how the method of a row begins that answers one class for every image


def read_config(run_dir):
    """Reads config.json of a run folder as a dict. Raises InputError when the folder is missing or not a run."""
    path = Path(run_dir) / "config.json"
    if not Path(run_dir).is_dir():
        raise InputError(f"There is no folder {run_dir}: give the folder that a training run has written.")
    if not path.is_file():
        raise InputError(f"{run_dir} is not a run folder, it has no config.json: give the folder a run has written.")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON ({error}): repair it or run the training again.") from error
    if not isinstance(config, dict):
        raise InputError(f"{path} holds no settings by name: repair it or run the training again.")
    return config


def read_rows(path):
    """Reads a CSV file as a list of dicts of strings; a missing file is an empty list."""
    if not Path(path).is_file():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def read_results(run_dir):
    """Reads tables/results.csv of a run folder, in long form; lines without a method (cut off) are left out."""
    return [row for row in read_rows(Path(run_dir) / "tables" / "results.csv") if row.get("method")]


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
