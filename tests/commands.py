"""What tests of commands share: calling the command in this process, its answer to a mistake, and what it wrote."""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import re

import numpy as np

from minisatm import train

TWO = ["--networks", "x=resnet20,y=resnet20", "--holdout", "none"]
SHORT = [
    *("--preset", "smoke", "--width", "1/4", "--size", "16", "--batch", "8", "--clean-iterations", "2"),
    *("--iterations", "2", "--evaluate-every", "2", "--evaluate-images", "8", "--test-images", "16"),
]


def call(*argv):
    """Exit status, stdout and stderr of the command, run in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = train.main([str(a) for a in argv])
        except SystemExit as leave:
            status = leave.code
    return status, out.getvalue(), err.getvalue()


def mistake(*argv):
    """The one sentence that answers a mistake."""
    status, _, err = call(*argv)
    assert status == 2, err
    assert err.startswith("error: ") and err.count("\n") == 1, err
    return err[len("error: ") : -1]


def misuse(*argv):
    """What argparse finds wrong, in one line."""
    status, _, err = call(*argv)
    assert status == 2 and "Traceback" not in err
    assert re.fullmatch(r"error: [^\n]*; see --help\.\n", err)
    return err[len("error: ") :]


def table(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def mnist(directory, count=200):
    """Four small IDX files."""
    directory.mkdir()
    rng = np.random.default_rng(0)
    for part in ("train", "t10k"):
        pixels, digits = rng.integers(0, 256, (count, 28, 28), np.uint8), (np.arange(count) % 10).astype(np.uint8)
        for name, array in ((f"{part}-images-idx3-ubyte", pixels), (f"{part}-labels-idx1-ubyte", digits)):
            head = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
            with gzip.open(directory / f"{name}.gz", "wb") as file:
                file.write(head + array.tobytes())
    return directory
