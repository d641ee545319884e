"""Plain text for a screen: aligned cells, and the results of a run as one table."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable

from ..errors import InputError
from .readings import MEASURES, asides, blocks, caption, cell_text, comparisons, comparisons_title, sentences
from .tables import CONDITIONS, Results

WIDTH = 110  # columns of a screen
CELL = 8


def percent(rate: float) -> str:
    return f"{100 * rate:.1f}"


def aligned(name: str, cells: Iterable[str], margin: int) -> str:
    """A line of right-aligned cells; a star takes the free column at the right, so that digits stand in line."""
    cells = (cell.rjust(CELL) if cell.endswith("*") else cell.rjust(CELL - 1) + " " for cell in cells)
    return (name.ljust(margin) + "".join(cells)).rstrip()


def results_table(results: Results) -> str:
    """The results of a run as one plain-text table, at most 110 columns wide, with sentences about it below.

    A cell is a percentage with its 95 % interval. Raises InputError without results.
    """
    if not results.methods:
        raise InputError("There are no results to print: evaluate the networks first, then make the table.")
    lines = [*textwrap.wrap(caption(results), WIDTH), ""]
    lines.append(" " * 15 + "".join(f"{condition:<19}" for condition in CONDITIONS).rstrip())
    for network, block in blocks(results):
        for measure, field in MEASURES:
            lines.append(f"{network}: {measure}")
            lines += [
                f"  {m:<12.12} " + "".join(f"{cell_text(c, field):<19}" for c in cells).rstrip() for m, cells in block
            ]
    lines += asides(results)
    compared = comparisons(results)
    if compared:
        lines += ["", comparisons_title(results)]
        lines += [f"  {f'{what}, {condition}':<32} {network:<22} {points:<22} {verdict}"
                  for what, condition, network, points, verdict in compared]  # fmt: skip
    for line in sentences(results):
        lines += textwrap.wrap(line, WIDTH, subsequent_indent="  ")
    return "\n".join(lines)
