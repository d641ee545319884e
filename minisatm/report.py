"""python -m minisatm.report RUN: draw the figures and write report.html of a run folder again."""

from __future__ import annotations

import sys

from .cli import Parser, print_any_name
from .errors import MISTAKES, tell
from .results.page import report
from .results.tables import Results


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit status; 2 is a user's mistake."""
    print_any_name()
    parser = Parser(prog="python -m minisatm.report", description=__doc__)
    parser.add_argument("run", metavar="RUN", help="folder of a training run: config.json, log.csv, tables/ ...")
    folder = parser.parse_args(argv).run
    try:
        print(report(Results.read(folder)))
    except MISTAKES as problem:
        return tell(problem, folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
