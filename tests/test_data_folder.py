"""A folder of one's own images, the dispatch by name, and what a Dataset refuses."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from minisatm import data
from minisatm.errors import InputError


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for name, n, suffix in (("old", 10, "png"), ("middle", 20, "jpg"), ("young", 30, "png")):
        (tmp_path / name).mkdir()
        for k in range(n):
            Image.fromarray(rng.integers(0, 256, (9, 12, 3), np.uint8)).save(tmp_path / name / f"{k:02d}.{suffix}")
    (tmp_path / "old" / "notes.txt").write_text("not an image")
    (tmp_path / "old" / ".hidden.png").write_text("")
    (tmp_path / ".cache").mkdir()
    return tmp_path


def test_classes_are_the_sorted_directories(folder):
    dataset = data.load("folder", folder)
    assert dataset.classes == ("middle", "old", "young") and np.bincount(dataset.labels).tolist() == [20, 10, 30]
    assert dataset.notes[0] == "60 images of 3 classes: middle 20, old 10, young 30"
    assert dataset.notes[1] == "left out, not images (1): old/notes.txt"
    np.testing.assert_array_equal(dataset.read(20), np.asarray(Image.open(folder / "old" / "00.png")))


def test_split_is_stratified(folder):
    dataset = data.load("folder", folder)
    parts = dataset.split(seed=4)
    assert [np.bincount(dataset.labels[part]).tolist() for part in parts] == [[14, 7, 21], [2, 1, 3], [4, 2, 6]]
    assert sorted(np.concatenate(parts).tolist()) == list(range(60))
    assert not np.array_equal(parts.test, dataset.split(seed=5).test)


def test_split_by_subject_where_subjects_are_known():
    subjects = np.repeat(np.arange(40), 3)
    dataset = data.Dataset("own", ("a", "b"), subjects % 2, None, 3, subjects=subjects)
    parts = dataset.split()
    people = [set(subjects[part]) for part in parts]
    assert [len(p) for p in people] == [28, 4, 8] and sum(map(len, parts)) == 120


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "1", "CMYK"])
def test_every_kind_of_image_becomes_colour(folder, mode):
    Image.new("RGB", (5, 4), "white").convert(mode).save(folder / "old" / ("00.png" if mode != "CMYK" else "aa.tif"))
    dataset = data.load("folder", folder)
    image = dataset.read(20 if mode != "CMYK" else 30)
    assert image.shape == (4, 5, 3) and image.dtype == np.uint8 and image.min() == 255


def test_a_transparent_background_is_white(folder):
    Image.new("RGBA", (3, 3), (0, 0, 0, 0)).save(folder / "old" / "00.png")
    assert data.load("folder", folder).read(20).min() == 255


def test_directories_that_are_no_classes(folder, tmp_path_factory):
    empty = tmp_path_factory.mktemp("empty")
    with pytest.raises(InputError, match="holds 0 class directories and two are needed: lay the images out as DIR/cl"):
        data.load("folder", empty)
    (folder / "newborn").mkdir()
    with pytest.raises(InputError, match="newborn holds no image that Pillow reads: add some or remove the directory"):
        data.load("folder", folder)


def test_images_that_are_damaged_later_are_named_when_met(folder):
    dataset = data.load("folder", folder)
    good = (folder / "old" / "01.png").read_bytes()
    (folder / "old" / "00.png").write_bytes(good[: len(good) // 2])
    (folder / "old" / "01.png").write_text("<html>")
    Image.fromarray(np.zeros((4, 4), np.int32)).save(folder / "old" / "02.png", "TIFF")
    (folder / "old" / "03.png").write_bytes(b"")
    for index in (20, 21, 22, 23):
        with pytest.raises(InputError, match=rf"old/0{index - 20}.png does not decode \(.*\): delete it or fetch it"):
            dataset.read(index)
    (folder / "old" / "05.png").unlink()
    with pytest.raises(InputError, match="05.png was deleted after the data was listed"):
        dataset.read(25)


def test_load_names_what_it_does_not_know(tmp_path):
    with pytest.raises(InputError, match="unknown data 'cifar': choose faces, adience, mnist, folder"):
        data.load("cifar", tmp_path)
    for name in data.NAMES:
        with pytest.raises(InputError, match=f"nowhere is not a directory, and {name} is read from one"):
            data.load(name, tmp_path / "nowhere")


@pytest.mark.parametrize(
    "classes, labels, text",
    [
        (("a",), [0], "own has 1 class: give two or more"),
        (("a", "b"), [], "own has no images: check the directory"),
        (("a", "b"), [0, 2], "own: image 1 has label 2, but the 2 classes are 0 to 1: check the labels"),
        (("a", "b"), [-1, 0], "own: image 0 has label -1, but"),
    ],
)
def test_dataset_refuses(classes, labels, text):
    with pytest.raises(InputError, match=text):
        data.Dataset("own", classes, np.array(labels, np.int64), None, 3)


def test_a_part_without_images_is_an_error():
    few = data.Dataset("own", ("a", "b"), np.array([0, 1]), None, 3)
    with pytest.raises(InputError, match="own: no images left for the validation part: add images or subjects"):
        few.split()
    folds = data.Dataset("own", ("a", "b"), np.array([0, 1] * 9), None, 3, folds=np.arange(18) % 3)
    with pytest.raises(InputError, match="own: no images left for the test part with fold 4"):
        folds.split(fold=4)


def test_pillow_is_not_imported_before_it_is_needed():
    code = "import sys, minisatm.data; sys.exit('PIL' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
