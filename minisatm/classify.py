"""python -m minisatm.classify IMAGE... --weights x.h5: the five most likely classes of a picture."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

from . import models
from .cli import Parser
from .data.pixels import fit, read_image
from .errors import MISTAKES, InputError, tell
from .tape import no_grad
from .tensor import Tensor

TOP = 5
GREY = np.array([0.299, 0.587, 0.114])  # weights of red, green and blue: ITU-R BT.601, as in Pillow's mode L


def classify(network: Any, image: Any, labels: list[str]) -> list[tuple[str, float]]:
    """The five most likely classes, as (label, probability), of the middle square of an image: (h, w, 3) uint8."""
    size, channels = network.definition["size"], network.definition["channels"]
    side = min(image.shape[:2])
    top, left = ((n - side) // 2 for n in image.shape[:2])
    square = image[top : top + side, left : left + side]
    if channels == 1:
        square = (square @ GREY).round().astype(np.uint8)[:, :, None]
    x = fit(square, size)[None].astype(np.float32) / 255
    with network.mode(False), no_grad():
        logits = network(Tensor(x))[0].data[0].astype(np.float64)
    exponentials = np.exp(logits - logits.max())
    most_likely = np.argsort(-exponentials, kind="stable")[:TOP]
    return [(labels[k], float(exponentials[k] / exponentials.sum())) for k in most_likely]


def read_labels(path: Path | None, classes: int) -> list[str]:
    """The labels of the classes from a file with one label a line; without a file, the numbers of the classes."""
    if path is None:
        return [str(k) for k in range(classes)]
    try:
        labels = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as problem:
        raise InputError(f"cannot read labels from {path} ({problem}): give a file with one label a line.") from problem
    if len(labels) != classes:
        raise InputError(f"{path} has {len(labels)} labels, the network {classes} classes: give one label a line.")
    return labels


def main(argv: list[str] | None = None) -> int:
    """Exit status 0; 2 for a file that cannot be used, with one sentence."""
    p = Parser(prog="python -m minisatm.classify", description=__doc__)
    p.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="pictures; the middle square of each is used")
    p.add_argument("--weights", required=True, metavar="x.h5", help="a network's file, of a run or of weights_convert")
    p.add_argument("--labels", type=Path, metavar="FILE", help="text file with one label a line (default: numbers)")
    args = p.parse_args(argv)
    try:
        network = models.build(None, weights=args.weights)
        labels = read_labels(args.labels, network.definition["classes"])
        for path in args.images:
            print(path)
            for label, probability in classify(network, read_image(path), labels):
                print(f"  {100 * probability:5.1f} %  {label}")
    except MISTAKES as problem:
        return tell(problem)
    return 0


if __name__ == "__main__":
    sys.exit(main())
