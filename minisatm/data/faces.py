"""A stand-in for Adience that needs no download: drawn faces of eight age groups, written in Adience's own format.

    python -m minisatm.data.faces DIR

Each subject has one identity, one age within its group and several images; subjects never cross the five folds.
The same seed gives the same bytes, however many processes draw.
"""

import argparse
import json
import os
import shutil
import signal
import sys
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from functools import partial
from pathlib import Path

import numpy as np

from ..errors import InputError, tell
from ..parallel import cores
from .adience import FOLDS, GROUPS, HEADER

VERSION = 1  # of the drawing: raised whenever the same seed would give other images
SUBJECTS_PER_JOB = 16


def draw(group, *, subject=0, image=0, size=64, seed=0):
    """Draw image `image` of subject `subject`, a person of age group 0..7: uint8 (size, size, 3).

    Every subject and every image has a random stream of its own, so that nobody's draws depend on anybody else's.
    """
    return _shot(group, subject, image, size, seed)[0]


def _shot(group, subject, image, size, seed):
    from . import portrait  # Pillow, wanted only where images are made

    # Image numbers start at 1: NumPy pads a seed with zeros, so [seed, subject] equals [seed, subject, 0].
    who = portrait.person(np.random.default_rng([seed, subject]), group)
    rng = np.random.default_rng([seed, subject, image + 1])
    how = portrait.pose(rng)
    return portrait.draw(who, how, rng, size), how


def write(
    directory, *, images=8000, size=64, seed=0, images_per_subject=4, workers=None, progress=lambda done, total: None
):
    """Write `images` drawn faces of `size` pixels to a new `directory` in Adience's format, and return its Path.

    Groups are balanced, five folds hold whole subjects, `progress(done, total)` is called as images are finished.
    `workers` is the number of processes (default: the cores this process may use; 1 draws here, without a pool).
    The directory appears complete or not at all. Raises InputError when it already holds something or a number is bad.
    """
    directory = Path(directory)
    _check(directory, images, size, seed, images_per_subject, workers)
    unfinished = directory.absolute().with_name(f".{directory.absolute().name}.{os.getpid()}.unfinished")
    try:
        unfinished.mkdir(parents=True)
        _write_all(unfinished, images, size, seed, images_per_subject, workers or cores(), progress)
        settings = _settings(images, size, seed, images_per_subject)
        (unfinished / "faces.json").write_text(json.dumps(settings, indent=2) + "\n")
        if directory.is_dir():
            directory.rmdir()  # empty, or this fails: a rename onto a directory does not work everywhere
        unfinished.rename(directory)
    except OSError as problem:
        reason = problem.strerror or problem
        raise InputError(
            f"{directory}: cannot be written ({reason}); choose another directory or make room for it"
        ) from problem
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return directory


def matches(directory, *, images=8000, size=64, seed=0, images_per_subject=4):
    """Was `directory` written by this generator, with these settings? False for anything else, missing or foreign."""
    try:
        found = json.loads((Path(directory) / "faces.json").read_text())
    except (OSError, ValueError):
        return False
    return bool(found == _settings(images, size, seed, images_per_subject))


def _settings(images, size, seed, images_per_subject):
    return {
        "generator": VERSION,
        "images": images,
        "size": size,
        "seed": seed,
        "images_per_subject": images_per_subject,
    }


def _check(directory, images, size, seed, images_per_subject, workers):
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise InputError(f"{directory} already holds something and is never overwritten: name a new directory")
    if images_per_subject < 1:
        raise InputError(f"{images_per_subject} images per subject: give 1 or more")
    least = images_per_subject * len(GROUPS) * FOLDS
    if images < least:
        raise InputError(
            f"{images} images cannot fill eight age groups in five folds with {images_per_subject} per subject: "
            f"ask for {least} or more"
        )
    if workers is not None and workers < 1:
        raise InputError(f"{workers} workers: give 1 or more")
    if not 16 <= size <= 2048:
        raise InputError(f"a size of {size} pixels: give one from 16 to 2048")
    if seed < 0:
        raise InputError(f"a seed of {seed}: give 0 or more")


def _write_all(directory, images, size, seed, images_per_subject, workers, progress):
    subjects = -(-images // images_per_subject)
    jobs = [range(s, min(s + SUBJECTS_PER_JOB, subjects)) for s in range(0, subjects, SUBJECTS_PER_JOB)]
    job = partial(_write_subjects, str(directory), images, size, seed, images_per_subject)
    rows = {}

    def finished(first, result):
        rows[first] = result
        progress(sum(map(len, rows.values())), images)

    if workers == 1 or len(jobs) == 1:
        for subjects_ in jobs:
            finished(subjects_.start, job(subjects_))
    else:
        _in_processes(job, jobs, min(workers, len(jobs)), finished)
    ordered = [row for first in sorted(rows) for row in rows[first]]
    for fold in range(FOLDS):
        lines = [HEADER] + ["\t".join(map(str, row)) for number, row in ordered if number == fold]
        (directory / f"fold_{fold}_data.txt").write_text("\n".join(lines) + "\n")


def _in_processes(job, jobs, workers, finished):
    # Ctrl-C reaches the whole process group: the workers leave it to this process, which drops what is not yet begun.
    pool = ProcessPoolExecutor(workers, initializer=signal.signal, initargs=(signal.SIGINT, signal.SIG_IGN))
    try:
        pending = {pool.submit(job, subjects): subjects.start for subjects in jobs}
        while pending:
            for future in wait(pending, return_when=FIRST_COMPLETED).done:
                finished(pending.pop(future), future.result())
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _write_subjects(directory, images, size, seed, images_per_subject, subjects):
    """Draw and write the images of some subjects; return (fold, row of the fold file) for each image."""
    from PIL import Image

    rows = []
    for subject in subjects:
        family, group = divmod(subject, len(GROUPS))  # eight faces share an album, as faces of one owner do in Adience
        fold = family % FOLDS
        user, face = f"{10_000_000 + family}@N{fold:02d}", subject + 1
        album = Path(directory) / "aligned" / user
        album.mkdir(parents=True, exist_ok=True)
        for number in range(min(images_per_subject, images - subject * images_per_subject)):
            pixels, how = _shot(group, subject, number, size, seed)
            name = f"{subject:06d}_{number:03d}_o.jpg"
            path = album / f"landmark_aligned_face.{face}.{name}"
            Image.fromarray(pixels).save(path, quality=95, subsampling=0)
            tilt, turn = 5 * round(how.tilt / 5), 15 * round(how.turn / 15)  # the steps in which Adience gives them
            rows.append((fold, (user, name, face, GROUPS[group], "u", 0, 0, size, size, tilt, turn, 100)))
    return rows


def main(arguments=None):
    """The command: exit status 0, 2 for a user's mistake, 130 for Ctrl-C."""
    parser = argparse.ArgumentParser(
        prog="python -m minisatm.data.faces",
        description="Draw a stand-in for Adience: faces of eight age groups in five subject-disjoint folds, written in "
        "Adience's own format, so that everything that reads Adience reads them. The same seed gives the same bytes.",
        epilog="example: python -m minisatm.data.faces faces64 --images 8000 --size 64",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("directory", metavar="DIR", help="where to write; must be new or empty")
    parser.add_argument("--images", type=int, default=8000, help="how many images")
    parser.add_argument("--size", type=int, default=64, help="side of an image in pixels")
    parser.add_argument("--seed", type=int, default=0, help="other seeds draw other people")
    parser.add_argument("--images-per-subject", type=int, default=4, help="how many images of each person")
    options = vars(parser.parse_args(arguments))
    try:
        from tqdm import tqdm

        with tqdm(total=options["images"], unit="face", file=sys.stderr) as bar:
            write(progress=lambda done, total: bar.update(done - bar.n), **options)
    except InputError as problem:
        return tell(problem)
    except KeyboardInterrupt:
        print("interrupted: nothing was written", file=sys.stderr)
        return 130
    print(f"{options['directory']}: {options['images']:,} faces of {options['size']} pixels, five folds")
    return 0


if __name__ == "__main__":
    sys.exit(main())
