"""The drawn stand-in: the same bytes for the same seed, whole subjects in five folds, complete or not there at all."""

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from minisatm import data
from minisatm.data import adience, faces, portrait
from minisatm.errors import InputError

SMALL = {"images": 160, "size": 24, "seed": 5, "images_per_subject": 2}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return faces.write(tmp_path_factory.mktemp("drawn") / "faces", workers=1, **SMALL)


def digest(directory):
    """Every file's name and bytes."""
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_same_bytes_whatever_the_number_of_workers(small, tmp_path):
    assert digest(faces.write(tmp_path / "three", workers=3, **SMALL)) == digest(small)
    other = digest(faces.write(tmp_path / "other", workers=1, **SMALL | {"seed": 6}))
    first = next(name for name in other if name.endswith(".jpg"))
    assert other.keys() == digest(small).keys() and other[first] != digest(small)[first]


def test_format_is_adience_own(small):
    listed, notes = adience.read_folds(small)
    assert len(listed) == 160 and all((small / face.path).is_file() for face in listed)
    assert len([name for name in digest(small) if name.endswith(".jpg")]) == 160
    header, row = (small / "fold_0_data.txt").read_text().split("\n")[:2]
    assert header == adience.HEADER and len(row.split("\t")) == 12
    assert any("in place of Adience" in note for note in notes) and not any("26,580" in note for note in notes)
    with Image.open(small / listed[0].path) as image:
        assert image.format == "JPEG" and image.size == (24, 24)
        assert set(image.layer[0][1:3]) == {1}  # the colour is not subsampled: no stray pattern for an attack to use


def test_groups_are_balanced_and_subjects_keep_to_one_fold(small):
    dataset = data.load("faces", small)
    assert set(Counter(dataset.labels.tolist()).values()) == {20}
    assert set(Counter(zip(dataset.folds.tolist(), dataset.labels.tolist())).values()) == {4}
    assert set(Counter(dataset.subjects.tolist()).values()) == {2}
    for fold in range(5):
        parts = dataset.split(fold=fold, seed=3)
        assert sum(map(len, parts)) == 160 and (dataset.folds[parts.test] == fold).all()
        people = [set(dataset.subjects[part].tolist()) for part in parts]
        assert not (people[0] & people[1] or people[0] & people[2] or people[1] & people[2])
        assert abs(len(parts.validation) - 0.1 * 128) <= 2


def test_images_of_a_subject_differ_and_streams_are_independent():
    one, two = faces.draw(3, subject=9, image=0, size=32), faces.draw(3, subject=9, image=1, size=32)
    assert one.dtype == np.uint8 and one.shape == (32, 32, 3) and np.abs(one.astype(int) - two).mean() > 3
    np.testing.assert_array_equal(one, faces.draw(3, subject=9, image=0, size=32))
    assert faces.draw(7, subject=9, size=97).shape == (97, 97, 3)


def test_no_image_shares_its_stream_with_its_subject(monkeypatch):
    states = []
    for name in ("Person", "Pose"):
        plain = getattr(portrait, name)
        spy = lambda rng, *rest, plain=plain: (
            states.append(rng.bit_generator.state["state"]["state"]) or plain(rng, *rest)
        )
        monkeypatch.setattr(portrait, name, spy)
    for image in range(3):
        faces.draw(2, subject=7, image=image, size=16)
    assert len(set(states)) == 4 and len(set(states[::2])) == 1


def test_age_can_be_seen():
    """The nearest of two mean images, the crudest of classifiers, tells toddlers from the old of other families."""

    def looks(group, subjects):
        grey = np.stack([faces.draw(group, subject=s, size=24).mean(axis=2).ravel() for s in subjects])
        return (grey - grey.mean(1, keepdims=True)) / grey.std(1, keepdims=True)

    young, old = looks(0, range(60)).mean(0), looks(7, range(60)).mean(0)
    nearer_old = lambda x: np.square(x - old).sum(1) < np.square(x - young).sum(1)
    right = np.concatenate([~nearer_old(looks(0, range(60, 100))), nearer_old(looks(7, range(60, 100)))])
    assert right.mean() > 0.75


def test_written_images_are_the_drawn_ones(small):
    face = adience.read_folds(small)[0][0]
    subject = int(face.face) - 1
    drawn = faces.draw(subject % 8, subject=subject, image=0, size=24, seed=5)
    assert face.group == subject % 8
    buffer = io.BytesIO()
    Image.fromarray(drawn).save(buffer, "JPEG", quality=95, subsampling=0)
    assert buffer.getvalue() == (small / face.path).read_bytes()


def test_matches_only_the_same_settings(small, tmp_path):
    assert faces.matches(small, **SMALL)
    for change in ({"seed": 6}, {"images": 161}, {"size": 25}, {"images_per_subject": 4}):
        assert not faces.matches(small, **SMALL | change)
    assert not faces.matches(tmp_path, **SMALL) and not faces.matches(tmp_path / "none", **SMALL)
    (tmp_path / "faces.json").write_text("{cut")
    assert not faces.matches(tmp_path, **SMALL)
    assert json.loads((small / "faces.json").read_text())["generator"] == faces.VERSION


def test_a_directory_that_holds_something_is_never_overwritten(tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(InputError, match="already holds something and is never overwritten: name a new directory"):
        faces.write(tmp_path, **SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    (tmp_path / "empty").mkdir()
    faces.write(tmp_path / "empty", **SMALL | {"images": 40, "images_per_subject": 1}, workers=1)
    assert (tmp_path / "empty" / "faces.json").is_file()


@pytest.mark.parametrize("workers", [1, 2])
def test_an_interrupted_run_leaves_nothing(tmp_path, workers):
    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        faces.write(tmp_path / "faces", progress=stop, workers=workers, **SMALL)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "change, text",
    [
        (
            {"images": 79},
            "79 images cannot fill eight groups in five folds with 2 per subject: ask for 80 or more.",
        ),
        ({"size": 8}, "a size of 8 pixels: give one from 16 to 2048."),
        ({"seed": -1}, "a seed of -1: give 0 or more."),
        ({"images_per_subject": 0}, "0 images per subject: give 1 or more."),
        ({"workers": 0}, "0 workers: give 1 or more."),
    ],
)
def test_bad_numbers_are_named(tmp_path, change, text):
    with pytest.raises(InputError, match=f"^{text}$"):
        faces.write(tmp_path / "faces", **SMALL | change)
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file/faces: cannot be written .*choose another directory"):
        faces.write(tmp_path / "file" / "faces", **SMALL)


def test_command(tmp_path, capsys):
    arguments = [str(tmp_path / "new"), "--images", "40", "--size", "16", "--images-per-subject", "1"]
    assert faces.main(arguments) == 0
    assert "40 faces of 16 pixels" in capsys.readouterr().out
    assert faces.main(arguments) == 2
    assert "error: " in capsys.readouterr().err
    with pytest.raises(SystemExit) as stopped:
        faces.main(["--help"])
    assert stopped.value.code == 0 and "--images-per-subject" in capsys.readouterr().out


@pytest.mark.skipif(os.name != "posix", reason="signals to a process group are POSIX")
def test_ctrl_c_leaves_nothing_behind(tmp_path):
    command = [sys.executable, "-m", "minisatm.data.faces", str(tmp_path / "faces"), "--images", "100000"]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    deadline = time.monotonic() + 15
    while not any(tmp_path.rglob("*.jpg")) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=15)
    assert process.returncode == 130 and "interrupted: nothing was written" in error and "Traceback" not in error
    assert list(tmp_path.iterdir()) == []
