"""The results of a run as one plain-text table."""

from __future__ import annotations

import textwrap

from ..errors import InputError
from .readings import MEASURES, asides, blocks, caption, cell_text, comparisons, comparisons_title, sentences
from .tables import CONDITIONS, Results

WIDTH = 110


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
