"""python -m weights_convert SOURCE OUT.h5 --model resnet50: turn a published weight file into minisatm's .h5."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from minisatm.cli import Parser
from minisatm.errors import MISTAKES, tell

from .convert import convert, listing
from .maps import MAPS

EXAMPLES = """examples:
  python -m weights_convert resnet50_weights_tf_dim_ordering_tf_kernels.h5 resnet50.h5 --model resnet50
  python -m weights_convert vgg16-397923af.pth vgg16.h5 --model vgg16 --classes 8
  python -m weights_convert --list

The framework that wrote the file need not be installed, and no code in the file is run. OUT.h5 also holds the
definition of the source's graph (place of the stride, eps, padding, mean, BGR ...), from which
models.build("resnet50", weights="resnet50.h5") builds it. See weights_convert/README.md."""


def parser() -> Parser:
    p = Parser(prog="python -m weights_convert", description=__doc__, epilog=EXAMPLES,
               formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    p.add_argument("source", nargs="?", type=Path, metavar="SOURCE", help="the published file")
    p.add_argument("out", nargs="?", type=Path, metavar="OUT.h5", help="the file to write; it must not exist")
    p.add_argument("--model", choices=sorted({m.model for m in MAPS}), help="the network in the file")
    p.add_argument("--source", dest="origin", choices=sorted({m.source for m in MAPS}),
                   help="the source whose names the file uses (default: the one that fits best)")  # fmt: skip
    p.add_argument("--classes", type=int, help="another number of classes: the last layer is drawn at random")
    p.add_argument("--size", type=int, help="side of the input in pixels (default: the source's)")
    p.add_argument("--prefix", help="the words before the names to take, where a file holds several sets of weights")
    p.add_argument("--partial", action="store_true", help="take the weights that fit; the others stay random")
    p.add_argument("--list", action="store_true", help="show the known files and exit")
    return p


def main(argv: list[str] | None = None) -> int:
    """Run the command; the exit status is 0, or 2 for a user's mistake, and then nothing is written."""
    p = parser()
    args = p.parse_args(argv)
    if args.list:
        print("\n".join(listing()))
        return 0
    if args.source is None or args.out is None or args.model is None:
        p.error("give SOURCE, OUT.h5 and --model (or --list)")
    if args.classes is not None and args.classes < 2:
        p.error(f"--classes {args.classes}: give 2 or more")
    try:
        lines = convert(args.source, args.out, model=args.model, source=args.origin, classes=args.classes,
                        size=args.size, partial=args.partial, prefix=args.prefix)  # fmt: skip
    except MISTAKES as problem:
        return tell(problem, args.out, "there is not enough memory for this file.")
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
