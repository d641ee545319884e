"""python -m minisatm.classify IMAGE... --weights x.h5: the five most likely classes of a picture."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from . import models
from .cli import Parser, print_any_name
from .data.pixels import fit, read_image
from .data.text import read_lines, shown
from .errors import MISTAKES, InputError, tell
from .models import files
from .tape import no_grad
from .tensor import Tensor

TOP = 5
GREY = np.array([0.299, 0.587, 0.114])  # weights of red, green and blue: ITU-R BT.601, as in Pillow's mode L


def classify(network: Any, image: Any, labels: list[str]) -> list[tuple[str, float]]:
    """The five most likely classes, as (label, probability), of an image (h, w, 3) uint8, resized as in training."""
    if network.definition["channels"] == 1:
        image = (image @ GREY).round().astype(np.uint8)[:, :, None]
    x = fit(image, network.definition["size"])[None].astype(np.float32) / 255
    with network.mode(False), no_grad():
        logits = network(Tensor(x))[0].data[0].astype(np.float64)
    exponentials = np.exp(logits - logits.max())
    most_likely = np.argsort(-exponentials, kind="stable")[:TOP]
    return [(labels[k], float(exponentials[k] / exponentials.sum())) for k in most_likely]


def read_labels(path: Path | None, classes: int, known: Sequence[str] = ()) -> list[str]:
    """The labels of the classes from a file with one label a line; without a file, those known, or the numbers."""
    if path is None:
        return [shown(label) for label in known or range(classes)]
    try:
        labels = [shown(line.strip()) for line in read_lines(path) if line.strip()]
    except (OSError, UnicodeDecodeError) as problem:
        what = f"cannot read labels from {shown(path)} ({shown(problem)})"
        raise InputError(f"{what}: give a file with one label a line.") from problem
    if len(labels) != classes:
        raise InputError(
            f"{shown(path)} has {len(labels)} labels, the network {classes} classes: give one label a line."
        )
    return labels


def main(argv: list[str] | None = None) -> int:
    """Exit status 0; 2 for a file that cannot be used, with one sentence."""
    p = Parser(prog="python -m minisatm.classify", description=__doc__)
    p.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="pictures; each is resized to a square")
    p.add_argument("--weights", required=True, metavar="x.h5", help="a network's file, of a run or of weights_convert")
    p.add_argument("--labels", type=Path, metavar="FILE", help="one label a line (default: the run's or numbers)")
    print_any_name()
    args = p.parse_args(argv)
    try:
        network = models.build(None, weights=args.weights)
        files.check_fit(args.weights)
        labels = read_labels(args.labels, network.definition["classes"], files.labels_of(args.weights))
        for path in args.images:
            if not path.is_file():
                raise InputError(f"there is no file {shown(path)}: check the name of the picture.")
            image = read_image(path, network.definition["size"])
            print(shown(path))
            for label, probability in classify(network, image, labels):
                print(f"  {100 * probability:5.1f} %  {label}")
    except MISTAKES as problem:
        return tell(problem)
    return 0


if __name__ == "__main__":
    sys.exit(main())
