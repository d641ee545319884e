"""The results of a run as one plain-text table."""

import math
import textwrap

from ..errors import InputError
from ..units import epsilon_text
from .tables import (
    BASELINE,
    CONDITIONS,
    compare_rows,
    compared_text,
    holdout_of,
    label,
    lookup,
    methods_of,
    networks_of,
    number,
    readings,
)  # fmt: skip

WIDTH = 110
MEASURES = (("classification rate", "rate"), ("one-off", "one_off"))


def results_table(rows, config=None, differences=None, predicted=None):
    """Formats the results of a run as one plain-text table, at most 110 columns wide, with readings below it.

    rows are those of tables/results.csv (dicts, fractions of 1); config the run's settings (networks, holdout,
    epsilon_text or epsilon, attack); differences the rows of tables/differences.csv (method, other, condition,
    network, n, difference, low, high); predicted those of tables/predicted_labels.csv, in the columns of rows. All
    but rows may be missing. A cell is a percentage with its 95 % interval. Raises InputError without results.
    """
    config = config or {}
    if not methods_of(rows):
        raise InputError("There are no results to print: evaluate the networks first, then make the table.")
    lines = [*textwrap.wrap(caption(rows, config), WIDTH), ""]
    lines.append(" " * 15 + "".join(f"{condition:<19}" for condition in CONDITIONS).rstrip())
    for network, block in blocks(rows, config):
        for measure, field in MEASURES:
            lines.append(f"{network}: {measure}")
            lines += [
                f"  {m:<12.12} " + "".join(f"{cell_text(c, field):<19}" for c in cells).rstrip() for m, *cells in block
            ]
    lines += asides(rows, config)
    compared = compare_rows(differences)
    if compared:
        lines += ["", compared_text(differences)]
        lines += [f"  {f'{what}, {condition}':<32} {network:<22} {points:<22} {verdict}"
                  for what, condition, network, points, verdict in compared]  # fmt: skip
    for line in readings(rows, config, predicted):
        lines += textwrap.wrap(line, WIDTH, subsequent_indent="  ")
    return "\n".join(lines)


def caption(rows, config):
    counts = sorted({int(n) for n in (number(row.get("n")) for row in rows) if not math.isnan(n)})
    n = "?" if not counts else str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    attacked = any(row.get("condition") == "hold-out" for row in rows)
    holdout = holdout_name(rows, config) or ("a network none was trained with" if attacked else "none in this run")
    return (
        f"In %, with 95 % intervals; n = {n} test images, epsilon {epsilon_of(config)}, attack {_attack(config)}; "
        "partner old / new: examples of the other network before / after it was retrained; "
        f"hold-out: {holdout}. One-off also accepts the neighbouring classes, which means something only where the "
        "classes are ordered (ages)."
    )


def _attack(config):
    attack = str(config.get("attack") or "r_fgsm")
    return 'R+FGSM (the paper\'s "R+Step-LL")' if attack.lower() in ("r_fgsm", "r-fgsm", "r+fgsm") else attack


def epsilon_of(config):
    return str(config.get("epsilon_text") or (epsilon_text(config["epsilon"]) if config.get("epsilon") else "unknown"))


def blocks(rows, config):
    """(network, [[method, the numbers of each condition or None]]) of what was measured."""
    for network in networks_of(rows, config):
        block = [[label(m), *(lookup(rows, m, network, c) for c in CONDITIONS)] for m in methods_of(rows)]
        block = [line for line in block if any(line[1:])]
        if block:
            yield network, block


def holdout_name(rows, config):
    return holdout_of(rows, config).removeprefix("hold-out-")


def _baselines(rows):
    """(name, numbers) of always answering one class."""
    found = [(row["method"], lookup(rows, row["method"], row["network"], "clean"))
             for row in rows if row["method"].startswith(BASELINE)]  # fmt: skip
    return [(name, values) for name, values in found if values]


def asides(rows, config):
    """Lines of what is no trained network: always one class, and the hold-out on clean images."""
    named = _baselines(rows)
    clean = lookup(rows, "undefended", holdout_of(rows, config), "clean")
    if clean:
        named.append((f"hold-out {holdout_name(rows, config)}, clean", clean))
    return [f"{name}: {cell_text(values, 'rate')}; one-off {cell_text(values, 'one_off')}" for name, values in named]


def _percent(fraction):
    """100 stands without its decimal, so that no cell is wider than 17 characters."""
    text = f"{100 * fraction:.1f}"
    return "100" if text == "100.0" else text


def cell_text(values, field):
    if not values:
        return "-"
    rate, low, high = (values[field + end] for end in ("", "_low", "_high"))
    return _percent(rate) + ("" if math.isnan(low + high) else f" [{_percent(low)}, {_percent(high)}]")
