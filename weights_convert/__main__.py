"""python -m weights_convert SOURCE OUT.h5 --model resnet50: published weights as minisatm's .h5."""

from __future__ import annotations

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

The source's framework need not be installed, and nothing in its file is ever run. OUT.h5 knows the variant of the graph
(place of the stride, eps, padding, mean, BGR ...): models.build("resnet50", weights="resnet50.h5") obeys it."""


def parser() -> Parser:
    import argparse

    p = Parser(prog="python -m weights_convert", description=__doc__, epilog=EXAMPLES,
               formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    p.add_argument("source", nargs="?", type=Path, metavar="SOURCE", help="the file that was published")
    p.add_argument("out", nargs="?", type=Path, metavar="OUT.h5", help="the file to write; must not exist")
    p.add_argument("--model", choices=sorted({m.model for m in MAPS}), help="which network it is")
    p.add_argument("--source", dest="origin", choices=sorted({m.source for m in MAPS}), help="whose names it uses")
    p.add_argument("--classes", type=int, help="another number of classes: the last layer is drawn at random")
    p.add_argument("--size", type=int, help="side of the input in pixels, if not the source's")
    p.add_argument("--partial", action="store_true", help="take what fits, leave the rest at its random start")
    p.add_argument("--list", action="store_true", help="show the files that are known, and leave")
    return p


def main(argv: list[str] | None = None) -> int:
    """Exit status 0; 2 for a file or a word that cannot work, with one sentence, and then nothing is written."""
    p = parser()
    args = p.parse_args(argv)
    if args.list:
        print("\n".join(listing()))
        return 0
    if args.source is None or args.out is None or args.model is None:
        p.error("name SOURCE, OUT.h5 and --model (or --list)")
    if args.classes is not None and args.classes < 2:
        p.error(f"--classes {args.classes}: 2 at least")
    try:
        lines = convert(args.source, args.out, model=args.model, source=args.origin, classes=args.classes,
                        size=args.size, partial=args.partial)  # fmt: skip
    except MISTAKES as problem:
        return tell(problem, args.out, "not enough memory for this file.")
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
