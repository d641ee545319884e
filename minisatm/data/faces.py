"""A stand-in for Adience that needs no download: drawn faces of eight age groups, written in Adience's format.

    python -m minisatm.data.faces DIR

Each subject is one person of one age, with several images, all in the same of the five folds.
The same seed gives the same bytes, however many processes draw.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..cli import Parser
from ..errors import InputError, tell
from ..parallel import cores
from ..progress import bar
from .adience import GROUPS, HEADER
from .dataset import FOLDS

if TYPE_CHECKING:
    from .portrait import Pose

VERSION = 1  # of the drawing: raise it when the same seed would give other images
SUBJECTS_PER_JOB = 16
Row = tuple[Any, ...]  # of a fold file


@dataclass(frozen=True)
class FaceSettings:
    """The settings that decide every byte of a directory of drawn faces."""

    generator: int = VERSION
    images: int = 8000
    size: int = 64
    seed: int = 0
    images_per_subject: int = 4


def draw(group: int, *, subject: int = 0, image: int = 0, size: int = 64, seed: int = 0) -> np.ndarray:
    """Draw image number `image` of a subject, a person of age group 0..7: uint8 (size, size, 3).

    Each subject and each image has its own random stream: the same image comes out whatever else is drawn.
    """
    return _image_and_pose(group, subject, image, size, seed)[0]


def _image_and_pose(group: int, subject: int, image: int, size: int, seed: int) -> tuple[np.ndarray, Pose]:
    from . import portrait  # here, since it loads Pillow, which only drawing needs

    # Image numbers start at 1: NumPy pads a seed with zeros, so [seed, subject] equals [seed, subject, 0].
    who = portrait.Person(np.random.default_rng([seed, subject]), group)
    rng = np.random.default_rng([seed, subject, image + 1])
    how = portrait.Pose(rng)
    return portrait.draw(who, how, rng, size), how


def write(
    directory: str | Path, *, workers: int | None = None,
    progress: Callable[[int, int], object] = lambda done, total: None, **settings: int,
) -> Path:  # fmt: skip
    """Write drawn faces to a new `directory` in Adience's format, and return its Path.

    settings: fields of FaceSettings (images, size in pixels, seed, images_per_subject); the others have their defaults.
    Groups are balanced, and each of the five folds holds whole subjects. workers: the number of processes, by default
    the cores this process may use. `progress(done, total)` is called as images are finished.
    The directory appears complete or not at all. Raises InputError when it already holds something, and when a number
    is out of range.
    """
    directory, wanted = Path(directory), FaceSettings(**settings)
    _check(directory, wanted, workers)
    unfinished = directory.absolute().with_name(f".{directory.absolute().name}.{os.getpid()}.unfinished")
    try:
        unfinished.mkdir(parents=True)
        _write_all(unfinished, wanted, workers or cores(), progress)
        (unfinished / "faces.json").write_text(json.dumps(asdict(wanted), indent=2) + "\n")
        if directory.is_dir():
            directory.rmdir()  # it is empty, or this fails; a rename onto a directory does not work on every system
        unfinished.rename(directory)
    except OSError as problem:
        reason = problem.strerror or problem
        raise InputError(f"{directory}: cannot be written ({reason}); choose another directory.") from problem
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return directory


def matches(directory: str | Path, **settings: int) -> bool:
    """Whether `write` made this directory with these settings; False when it is missing or holds anything else."""
    try:
        written = json.loads((Path(directory) / "faces.json").read_text())
    except (OSError, ValueError):
        return False
    return bool(written == asdict(FaceSettings(**settings)))


def _check(directory: Path, wanted: FaceSettings, workers: int | None) -> None:
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise InputError(f"{directory} already holds something and is never overwritten: name a new directory.")
    images, each = wanted.images, wanted.images_per_subject
    least = each * len(GROUPS) * FOLDS
    if each < 1:
        raise InputError(f"{each} images per subject: give 1 or more.")
    if images < least:
        few = f"{images} images cannot fill eight groups in five folds with {each} per subject"
        raise InputError(f"{few}: ask for {least} or more.")
    if workers is not None and workers < 1:
        raise InputError(f"{workers} workers: give 1 or more.")
    if not 16 <= wanted.size <= 2048:
        raise InputError(f"a size of {wanted.size} pixels: give one from 16 to 2048.")
    if wanted.seed < 0:
        raise InputError(f"a seed of {wanted.seed}: give 0 or more.")


def _write_all(directory: Path, wanted: FaceSettings, workers: int, progress: Callable[[int, int], object]) -> None:
    subjects = -(-wanted.images // wanted.images_per_subject)
    jobs = [range(s, min(s + SUBJECTS_PER_JOB, subjects)) for s in range(0, subjects, SUBJECTS_PER_JOB)]
    job = partial(_write_subjects, directory, wanted)
    rows: list[tuple[int, Row]] = []
    # Ctrl-C reaches all processes: the workers ignore it, and this process cancels the jobs that have not begun.
    pool = ProcessPoolExecutor(min(workers, len(jobs)), initializer=signal.signal,
                               initargs=(signal.SIGINT, signal.SIG_IGN))  # fmt: skip
    try:
        for some in map(job, jobs) if workers == 1 or len(jobs) == 1 else pool.map(job, jobs):
            rows += some
            progress(len(rows), wanted.images)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    for fold in range(FOLDS):
        lines = [HEADER] + ["\t".join(map(str, row)) for number, row in rows if number == fold]
        (directory / f"fold_{fold}_data.txt").write_text("\n".join(lines) + "\n")


def _write_subjects(directory: Path, wanted: FaceSettings, subjects: range) -> list[tuple[int, Row]]:
    """Draw and write the images of some subjects; return (fold, row of the fold file) for each image."""
    from PIL import Image

    rows = []
    for subject in subjects:
        family, group = divmod(subject, len(GROUPS))  # eight faces share an album, as faces of one owner do in Adience
        fold = family % FOLDS
        user, face = f"{10_000_000 + family}@N{fold:02d}", subject + 1
        album = directory / "aligned" / user
        album.mkdir(parents=True, exist_ok=True)
        each, size = wanted.images_per_subject, wanted.size
        for number in range(min(each, wanted.images - subject * each)):
            pixels, how = _image_and_pose(group, subject, number, size, wanted.seed)
            name = f"{subject:06d}_{number:03d}_o.jpg"
            path = album / f"landmark_aligned_face.{face}.{name}"
            Image.fromarray(pixels).save(path, quality=95, subsampling=0)
            tilt, turn = 5 * round(how.tilt / 5), 15 * round(how.turn / 15)  # Adience's files have multiples of these
            rows.append((fold, (user, name, face, GROUPS[group], "u", 0, 0, size, size, tilt, turn, 100)))
    return rows


def main(arguments: list[str] | None = None) -> int:
    """Run the command; the exit status is 0, 2 for a user's mistake, 130 for Ctrl-C."""
    parser = Parser(
        prog="python -m minisatm.data.faces", formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        description="Draw a stand-in for Adience: faces of eight age groups in five subject-disjoint folds, written in "
        "Adience's format, so that a program that reads Adience reads them. The same seed gives the same bytes.",
        epilog="example: python -m minisatm.data.faces faces64 --images 8000 --size 64",
    )  # fmt: skip
    parser.add_argument("directory", metavar="DIR", help="where to write; must be new or empty")
    default = FaceSettings()
    parser.add_argument("--images", type=int, default=default.images, help="how many images")
    parser.add_argument("--size", type=int, default=default.size, help="side of an image in pixels")
    parser.add_argument("--seed", type=int, default=default.seed, help="other seeds draw other people")
    parser.add_argument("--images-per-subject", type=int, default=default.images_per_subject, help="images of a person")
    options = vars(parser.parse_args(arguments))
    try:
        with bar(options["images"], "faces", "face") as shown:
            write(progress=lambda done, total: shown.update(done - shown.n), **options)
    except InputError as problem:
        return tell(problem)
    except KeyboardInterrupt:
        print("interrupted: nothing was written", file=sys.stderr)
        return 130
    print(f"{options['directory']}: {options['images']:,} faces of {options['size']} pixels, five folds")
    return 0


if __name__ == "__main__":
    sys.exit(main())
