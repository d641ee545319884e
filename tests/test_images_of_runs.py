"""A run knows its images: what a changed folder does to --resume and to evaluate, said in words."""

import json
import os
import shutil

import h5py
import numpy as np
import pytest
from commands import call as train_call
from commands import mnist
from evaluation_runs import call, table
from PIL import Image
from tiny_runs import TINY, stopping

from minisatm import InputError, classify, data, models
from minisatm.run import experiment, images
from minisatm.run import monitor as monitors
from minisatm.run import settings as config

CLASSES = ("cat", "dog", "emu")
SIZE = 16


def picture(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (20, 20, 3), np.uint8)).save(path)


@pytest.fixture
def folder(tmp_path):
    """60 pictures of three classes: 42 to train on, 6 for validation and 12 for the test."""
    for k in range(60):
        picture(tmp_path / "pictures" / CLASSES[k % 3] / f"{k:02d}.png", k)
    return tmp_path / "pictures"


def made(folder, path, **changes):
    """A run folder with one network, as training leaves it."""
    settings = config.from_preset("smoke", {**TINY, "networks": ("a=resnet20", "b=resnet20"), "size": SIZE,
                                            "data": "folder", "data_dir": str(folder), **changes})  # fmt: skip
    path.mkdir()
    settings.save(path / "config.json")
    dataset = data.load(settings.data, settings.data_dir)
    images.write(path, dataset, dataset.split(fold=settings.fold, seed=settings.seed))
    network = models.build("resnet20", classes=len(dataset.classes), width=1 / 8, size=SIZE, rng=0,
                           channels=dataset.channels)  # fmt: skip
    network.save(path / "networks" / "satm-a.h5")
    return path


def evaluated(run, out, *options):
    """Exit status, what was said, and the pixels of the images that the network was tested on."""
    short = ["--no-curves", "--no-masking", "--images", "0", "--attack", "random_noise"]
    status, said, err = call(run, *short, "--save-examples", f"{out}-examples", "--out", out, *options)
    saved = [np.load(file) for file in out.parent.glob(f"{out.name}-examples/*.npz")]
    return status, " ".join(said.split()), err, [(s["x"], s["y"], s["x_adv"]) for s in saved]


def names_in(run, part):
    return list(json.loads((run / "images.json").read_text())[part])


def test_the_file_names_every_image_once(folder, tmp_path):
    run = made(folder, tmp_path / "run")
    noted = json.loads((run / "images.json").read_text())
    assert noted["classes"] == list(CLASSES)
    parts = [list(noted[part]) for part in ("train", "validation", "test")]
    assert [len(part) for part in parts] == [42, 6, 12]
    assert sorted(sum(parts, [])) == sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*.png"))
    dataset = data.load("folder", folder)
    split = dataset.split(seed=0)
    assert parts[2] == [dataset.files[k] for k in split.test]


def test_nothing_is_said_of_the_same_images_elsewhere(folder, tmp_path):
    run = made(folder, tmp_path / "run")
    moved = shutil.copytree(folder, tmp_path / "deeper" / "other name")
    os.utime(next(moved.rglob("*.png")), (1, 1))
    first = evaluated(run, tmp_path / "one")
    second = evaluated(run, tmp_path / "two", "--data-dir", moved)
    assert first[0] == second[0] == 0 and "changed" not in first[1] + second[1] and "warning" not in first[1]
    assert all(np.array_equal(a, b) for a, b in zip(first[3][0], second[3][0]))


ADDED = {  # what happens to images that the test does not need: what is said of it
    "one is added": (lambda f: picture(f / "cat" / "new.png", 99), "1 image is new (cat/new.png)"),
    "five are added": (
        lambda f: [picture(f / "emu" / f"0{k}new.png", 100 + k) for k in range(5)],
        "5 images are new (emu/00new.png, emu/01new.png, emu/02new.png, ...)",
    ),
    "subjects are named": (
        lambda f: (f / "subjects.csv").write_text(
            "file,subject\n" + "".join(f"{p.relative_to(f).as_posix()},{p.stem[0]}\n" for p in f.rglob("*.png"))
        ),
        "in another part of the split (",
    ),
}


@pytest.mark.parametrize("change, words", ADDED.values(), ids=ADDED)
def test_evaluate_keeps_to_the_runs_own_test_images(folder, tmp_path, change, words):
    run = made(folder, tmp_path / "run")
    before = evaluated(run, tmp_path / "before")
    change(folder)
    status, said, err, after = evaluated(run, tmp_path / "after")
    assert status == 0, err
    assert words in said, said
    assert "evaluated on exactly its own 12 test images, found by name" in said
    for one, other in zip(before[3][0], after[0]):  # pixels, classes and the noise of each place
        assert np.array_equal(one, other)
    drawn_again = data.load("folder", folder).split(seed=0).test
    files = data.load("folder", folder).files
    trained_on = set(names_in(run, "train")) & {files[k] for k in drawn_again}
    assert trained_on  # what would have been tested on without the file
    assert (tmp_path / "after" / "evaluation.txt").read_text().startswith("the images or their parts have changed")


def first_of(run, part):
    return names_in(run, part)[0]


LOST = {
    "a test image is gone": (lambda f, r: (f / first_of(r, "test")).unlink(), "1 of its 12 test images are not there"),
    "a test image has changed": (lambda f, r: picture(f / first_of(r, "test"), 500), "1 image is changed (TEST)"),
    "a test image has another class": (
        lambda f, r: (f / first_of(r, "test")).rename(f / "emu" / "other.png"),
        "1 image is new (emu/other.png); 1 image is gone (TEST)",
    ),
    "a class has another name": (lambda f, r: (f / "cat").rename(f / "zebra"), "class cat is gone; class zebra is new"),
    "the classes are in another order": (
        lambda f, r: (f / "classes.txt").write_text("emu\ncat\ndog\n"),
        "the order of the classes was cat, dog, emu and is emu, cat, dog",
    ),
    "a class is new": (lambda f, r: [picture(f / "fox" / f"{k}.png", k) for k in range(20)], "class fox is new"),
}


@pytest.mark.parametrize("change, words", LOST.values(), ids=LOST)
def test_evaluate_refuses_other_test_images(folder, tmp_path, change, words):
    run = made(folder, tmp_path / "run")
    words = words.replace("TEST", first_of(run, "test"))
    change(folder, run)
    status, said, err, _ = evaluated(run, tmp_path / "out")
    assert status == 2 and err.startswith(f"error: the images are not those of {run} (") and err.count("\n") == 1, err
    assert words in err and said == "" and not (tmp_path / "out").exists()


def test_training_images_that_are_gone_are_not_needed(folder, tmp_path):
    run = made(folder, tmp_path / "run")
    (folder / first_of(run, "train")).unlink()
    status, said, err, _ = evaluated(run, tmp_path / "out")
    assert status == 0 and f"1 image is gone ({first_of(run, 'train')})" in said, err


def test_runs_with_other_test_images_are_not_compared(folder, tmp_path):
    one = made(folder, tmp_path / "one")
    picture(folder / "cat" / "new.png", 99)
    two = made(folder, tmp_path / "two")
    status, _, err = call(one, two, "--out", tmp_path / "out")
    assert status == 2 and "one and " in err and "do not share their test images (" in err
    assert set(names_in(one, "test")) != set(names_in(two, "test"))


def test_a_run_of_an_older_version_is_warned_of(folder, tmp_path):
    run = made(folder, tmp_path / "run")
    (run / "images.json").unlink()
    status, said, err, _ = evaluated(run, tmp_path / "out")
    assert status == 0, err
    assert said.count("warning: ") == 1 and f"warning: {run} has no images.json, as runs of an older version" in said
    dataset = data.load("folder", folder)
    (line,) = images.check(run, dataset, dataset.split())
    assert line.startswith(f"warning: {run} has no images.json")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"classes": 1, "images": "", "split": ""}', '{"classes": ["a"', "7",
                                  '{"classes": [], "images": "", "split": "", "test": {}}'])  # fmt: skip
def test_a_damaged_file_is_refused(folder, tmp_path, text):
    run = made(folder, tmp_path / "run")
    (run / "images.json").write_text(text)
    status, _, err, _ = evaluated(run, tmp_path / "out")
    assert status == 2 and "images.json is damaged" in err and err.count("\n") == 1


# Going on


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda f: picture(f / "cat" / "new.png", 99), "1 image is new (cat/new.png); "),
        (lambda f: (f / "cat" / "00.png").unlink(), "1 image is gone (cat/00.png)"),
        (lambda f: picture(f / "cat" / "00.png", 5), "1 image is changed (cat/00.png)"),
        (lambda f: (f / "cat").rename(f / "bird"), "class cat is gone; class bird is new"),
        (lambda f: (f / "classes.txt").write_text("emu\ndog\ncat\n"), "the order of the classes was cat, dog, emu and"),
    ],
)
def test_resume_refuses_other_images(folder, tmp_path, change, words):
    run = made(folder, tmp_path / "run")
    change(folder)
    dataset = data.load("folder", folder)
    with pytest.raises(InputError) as problem:
        images.check(run, dataset, dataset.split())
    assert str(problem.value).startswith(f"the images are not those that {run} began with (") and "\n" not in str(
        problem.value
    )
    assert words in str(problem.value)


def test_a_run_that_goes_on_checks_its_images_before_it_touches_anything(folder, tiny, tmp_path, monkeypatch, capsys):
    out, settings = tmp_path / "run", tiny(data="folder", data_dir=str(folder), size=SIZE, width=1 / 8, fold=0,
                                           networks=("a=resnet20", "b=resnet20"))  # fmt: skip
    patch = stopping(monkeypatch, "clean", 2, "ctrl-c")
    with pytest.raises(monitors.Interrupted):
        experiment.run_new(settings, out)
    patch.undo()
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    picture(folder / "cat" / "new.png", 99)
    status, _, err = train_call("--resume", out)
    assert status == 2 and err.startswith("error: the images are not those that ") and err.count("\n") == 1, err
    assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == before
    (folder / "cat" / "new.png").unlink()
    experiment.run_on(out, settings)
    assert len(table(out / "log.csv")) == 9
    capsys.readouterr()
    argv = [str(folder / "cat" / "00.png"), "--weights", str(out / "networks" / "satm-a.h5")]
    assert classify.main(argv) == 0  # a network of a run knows the names of its classes
    assert sorted(line.split()[-1] for line in capsys.readouterr().out.splitlines()[1:]) == sorted(CLASSES)


@pytest.mark.parametrize("labels, shown", [(None, "012"), (list("xyz"), "xyz"), (list("xy"), "012"), ({"a": 1}, "012"),
                                           ([1, 2, "\x1b[31m"], ("1", "2", "\\x1b[31m"))])  # fmt: skip
def test_labels_in_a_weights_file(tmp_path, capsys, labels, shown):
    """Without one for each class, the classes have numbers."""
    file = tmp_path / "x.h5"
    models.build("resnet20", classes=3, width=1 / 8, size=SIZE, rng=0).save(file)
    if labels is not None:
        with h5py.File(file, "r+") as h5:
            h5.attrs["labels"] = json.dumps(labels)
    picture(tmp_path / "x.png", 0)
    assert classify.main([str(tmp_path / "x.png"), "--weights", str(file)]) == 0
    assert sorted(line.split()[-1] for line in capsys.readouterr().out.splitlines()[1:]) == sorted(shown)


def test_digits_are_known_by_their_digest(tmp_path):
    digits = mnist(tmp_path / "digits")
    run = made(digits, tmp_path / "run", data="mnist")
    dataset = data.load("mnist", digits)
    assert images.check(run, dataset, dataset.split()) == []
    assert (run / "images.json").stat().st_size < 1000  # 70,000 digits have no names
    for file in digits.iterdir():
        if "labels" in file.name and "train" in file.name:
            file.unlink()
            shutil.copy(digits / "t10k-labels-idx1-ubyte.gz", file)
    shutil.copy(digits / "t10k-images-idx3-ubyte.gz", digits / "train-images-idx3-ubyte.gz")
    dataset = data.load("mnist", digits)
    with pytest.raises(InputError, match="the digest of the images is another"):
        images.check(run, dataset, dataset.split())
    status, _, err = call(run, "--out", tmp_path / "out")
    assert status == 2 and "the digest of the images is another" in err


def test_faces_in_adiences_format_are_known_by_name(drawn, tmp_path):
    faces = shutil.copytree(drawn, tmp_path / "faces")
    run = made(faces, tmp_path / "run", data="faces")
    dataset = data.load("faces", faces)
    assert images.check(run, dataset, dataset.split()) == []
    (faces / first_of(run, "train")).unlink()
    dataset = data.load("faces", faces)
    with pytest.raises(InputError, match=r"\(1 image is gone \(aligned/"):
        images.check(run, dataset, dataset.split())
