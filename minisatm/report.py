"""python -m minisatm.report RUN: draw the figures and write report.html of a run folder again."""

import argparse
import sys

from .errors import InputError
from .results.page import report


def main(argv=None):
    """Runs the command `python -m minisatm.report RUN` and returns its exit status; 2 is a user's mistake."""
    parser = argparse.ArgumentParser(
        prog="python -m minisatm.report", description="Draw the figures and write report.html of a run folder again."
    )
    parser.add_argument(
        "run", metavar="RUN", help="folder of a training run: config.json, log.csv, epochs.csv, tables/"
    )
    try:
        print(report(parser.parse_args(argv).run))
    except (InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
