"""Which images a run is about: its data set, the parts to train, validate and test on, and images.json that notes them.

A folder of images may change between training and evaluation. Then the same seed draws other parts, and a test image
may be one that was trained on. So a run writes down its classes and the images of each part, and what comes later
compares.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .. import data
from ..data.dataset import Split
from ..data.text import same_name
from ..errors import InputError
from ..progress import bar
from .settings import Settings

Record = dict[str, Any]  # what images.json holds: see `record`
FILE = "images.json"
NAMED = 3  # images of one kind that a message names


def prepare_data(settings: Settings) -> data.Dataset:
    """The data set of the settings; faces are drawn first if they do not exist yet."""
    if settings.data == "faces" and not settings.data_dir:
        from ..data import faces

        wanted = dict(images=settings.faces, size=settings.size, seed=settings.seed)
        directory = Path("runs") / "data" / f"faces-{settings.faces}-{settings.size}px-seed{settings.seed}"
        if not faces.matches(directory, **wanted):
            print(f"drawing {settings.faces:,} faces into {directory}", flush=True)
            with bar(settings.faces, "faces", "face") as shown:
                faces.write(directory, **wanted, progress=lambda done, total: shown.update(done - shown.n))
        return data.load("faces", directory, labels=settings.labels, progress=None)  # just drawn: nothing to check
    if not settings.data_dir:
        raise InputError(f"--data {settings.data} needs --data-dir, the directory that holds it.")
    with bar(0, "checking", "image") as shown:

        def progress(done: int, total: int) -> None:
            shown.total = total
            shown.update(done - shown.n)

        return data.load(settings.data, settings.data_dir, labels=settings.labels, progress=progress)


def test_images(
    settings: Settings, runs: Sequence[Path], *, batch: int, backend: str
) -> tuple[data.Dataset, data.Batches, list[str]]:
    """The data set of the settings, the test images that these runs share in batches, and lines to print about them.

    Raises InputError where a run's own test images are not there any more, and where the runs have different ones.
    """
    dataset, notes = prepare_data(settings), list[str]()
    split = dataset.split(fold=settings.fold, seed=settings.seed)
    tests = [_test_part(run, dataset, split, notes) for run in runs]
    for run, test in zip(runs[1:], tests[1:]):
        if count := len(np.setxor1d(tests[0], test)):
            raise InputError(f"{runs[0]} and {run} do not share their test images ({count} images are in the test part "
                             "of one alone): evaluate one after the other.")  # fmt: skip
    batches = data.Batches(dataset, tests[0], batch=batch, size=settings.size, seed=settings.seed, backend=backend)
    return dataset, batches, notes


def record(dataset: data.Dataset, split: Split) -> Record:
    """What images.json says of a data set and its split.

    classes: the names in their order. images and split: digests, from Dataset.fingerprint. Where images are files also
    train, validation and test: {name: digest of class and content} of each image of the part, in its order.
    """
    digests = dataset.fingerprint(split)
    noted: Record = dict(classes=list(dataset.classes), images=digests["images"], split=digests["split"])
    known = _known(dataset)
    for part, indices in split._asdict().items() if known else ():
        noted[part] = {known[k][0]: known[k][1] for k in indices}
    return noted


def write(run: Path, dataset: data.Dataset, split: Split) -> None:
    """Note in the run folder which images the run uses."""
    (run / FILE).write_text(json.dumps(record(dataset, split), indent=1) + "\n", encoding="utf-8")


def check(run: Path, dataset: data.Dataset, split: Split) -> list[str]:
    """Lines to print before the run goes on; an InputError says in what the images differ from those it began with."""
    before = _read(run)
    if before is None:
        return [f"{_old(run)}: nobody can tell whether the images are those that the run began with."]
    if found := differences(before, record(dataset, split)):
        raise InputError(f"the images are not those that {run} began with ({'; '.join(found)}): put them back as they "
                         "were, or start a new run with another --out.")  # fmt: skip
    return []


def differences(before: Record, now: Record) -> list[str]:
    """In what two records differ, in words: classes, new images, images that are gone, changed, or in another part."""
    found = []
    old, new = before["classes"], now["classes"]
    for what, names in (("gone", [c for c in old if c not in new]), ("new", [c for c in new if c not in old])):
        if names:
            found.append(f"{'class' if len(names) == 1 else 'classes'} {', '.join(names)} {_is(len(names))} {what}")
    if not found and old != new:
        found.append(f"the order of the classes was {', '.join(old)} and is {', '.join(new)}")
    if "test" not in before or "test" not in now:
        changed = [what for what in ("images", "split") if before[what] != now[what]]
        return found + [f"the digest of the {what} is another" for what in changed]
    one, other = ({name: (part, digest) for part in Split._fields for name, digest in r[part].items()}
                  for r in (before, now))  # fmt: skip
    both = [name for name in one if name in other]
    for what, names in (
        ("new", [name for name in other if name not in one]), ("gone", [name for name in one if name not in other]),
        ("changed", [name for name in both if one[name][1] != other[name][1]]),
        ("in another part of the split", [name for name in both if one[name][0] != other[name][0]]),
    ):  # fmt: skip
        if names:
            found.append(
                f"{len(names):,} image{'s' * (len(names) > 1)} {_is(len(names))} {what} ({_some(sorted(names))})"
            )
    return found


def _test_part(run: Path, dataset: data.Dataset, split: Split, notes: list[str]) -> np.ndarray:
    """The indices of the images that the run kept for its test, found by name where the data set has changed."""
    before = _read(run)
    if before is None:
        notes.append(f"{_old(run)}: nobody can tell whether it was trained on some of these test images.")
        return split.test
    found = differences(before, record(dataset, split))
    if not found:
        return split.test
    places = {entry: k for k, entry in enumerate(_known(dataset))}
    wanted = list(before.get("test", {}).items())
    lost = [name for name, digest in wanted if (name, digest) not in places]
    if before["classes"] != list(dataset.classes) or not wanted or lost:
        which = f"{len(lost):,} of its {len(wanted):,} test images are not there any more; " if lost else ""
        raise InputError(f"the images are not those of {run} ({which}{'; '.join(found)}): put them back as they "
                         "were, or name the folder that holds them with --data-dir.")  # fmt: skip
    notes.append(f"the images or their parts have changed since {run} was trained ({'; '.join(found)}): it is "
                 f"evaluated on exactly its own {len(wanted):,} test images, found by name")  # fmt: skip
    return np.array([places[entry] for entry in wanted], np.int64)


def _known(dataset: data.Dataset) -> list[tuple[str, str]]:
    """(name, digest of class and content) of every image; nothing where the images are no files."""
    facts = zip(dataset.files, dataset.labels, dataset.contents)
    return [(same_name(name), hashlib.sha256(json.dumps([dataset.classes[label], content]).encode()).hexdigest()[:16])
            for name, label, content in facts]  # fmt: skip


def _read(run: Path) -> Record | None:
    """The images.json of a run; None for a run without one."""
    path = run / FILE
    if not path.is_file():
        return None
    try:
        noted = json.loads(path.read_text(encoding="utf-8"))
        whole = all(isinstance(noted[k], kind) for k, kind in (("classes", list), ("images", str), ("split", str)))
        whole &= all(isinstance(noted.get(part, {}), dict) for part in Split._fields)
        whole &= len({part in noted for part in Split._fields}) == 1
    except (ValueError, KeyError, TypeError, AttributeError):
        whole = False
    if not whole:
        raise InputError(f"{path} is damaged, so that nobody can tell which images the run uses: copy it again from "
                         "where the run was made.")  # fmt: skip
    return dict(noted)


def _old(run: Path) -> str:
    return f"warning: {run} has no {FILE}, as runs of an older version"


def _is(count: int) -> str:
    return "is" if count == 1 else "are"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMED]) + ", ..." * (len(names) > NAMED)
