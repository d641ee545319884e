"""Names of any bytes, labels with a mark at their beginning, and one rule for the shape of pictures."""

import codecs
import os
import re
import shutil
import subprocess
import sys

import h5py
import numpy as np
import pytest
from PIL import Image

from minisatm import classify, data, models, train
from minisatm.data.text import read_lines, shown

NAMES = [b"caf\xe9", b"\xff\xfe", b"\x1b[31mred", "grün".encode(), "山".encode(), b"two\nlines", b"\xc0\x80"]


@pytest.mark.parametrize(
    "raw, expected",
    [
        (b"caf\xe9", "caf\\udce9"),
        (b"\x1b[2J", "\\x1b[2J"),
        (b"a\0b\nc\x7f", "a\\x00b\\nc\\x7f"),
        ("a\u202eb\u200b".encode(), "a\\u202eb\\u200b"),
        ("grün 山 (0, 2)".encode(), "grün 山 (0, 2)"),
    ],
)
def test_what_a_terminal_is_shown(raw, expected):
    text = shown(raw.decode("utf-8", "surrogateescape"))
    assert text == expected and text.isprintable() and text.encode()


MARKS = {"utf-8": codecs.BOM_UTF8, "utf-16-le": codecs.BOM_UTF16_LE, "utf-16-be": codecs.BOM_UTF16_BE}


@pytest.mark.parametrize("mark, encoding", [(b"", "utf-8"), *((mark, encoding) for encoding, mark in MARKS.items())])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_of_text(tmp_path, mark, encoding, end):
    (tmp_path / "x").write_bytes(mark + end.join(["ä", "b\x85c", ""]).encode(encoding))
    assert read_lines(tmp_path / "x") == ["ä", "b\x85c", ""]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    network = models.build("resnet20", classes=3, width=1 / 4, size=32, rng=0)
    path = tmp_path_factory.mktemp("weights") / "x.h5"
    network.save(path)
    return path


def picture(path, shape=(40, 40, 3)):
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    Image.fromarray(pixels).save(os.fsencode(path).decode("utf-8", "surrogateescape"), "PNG")
    return pixels


@pytest.mark.parametrize("screen", ["utf-8", "ascii", "latin-1"])
def test_classify_prints_names_of_any_bytes(tmp_path, weights, screen):
    paths = [os.fsencode(tmp_path) + b"/" + name for name in NAMES]
    for path in paths:
        picture(path)
    command = [sys.executable, "-m", "minisatm.classify", *paths, "--weights", str(weights)]
    done = subprocess.run(command, capture_output=True, env=os.environ | {"PYTHONIOENCODING": screen}, check=False)
    lines = done.stdout.decode(screen).split("\n")
    assert (done.returncode, done.stderr) == (0, b"") and len(lines) == 4 * len(NAMES) + 1
    assert lines[0] == f"{tmp_path}/caf\\udce9" and lines[8] == f"{tmp_path}/\\x1b[31mred"


def test_classify_names_what_it_cannot_read(tmp_path, weights, capsys):
    for name, content, text in (
        (b"caf\xe9", None, "there is no file .*caf\\\\udce9: check the name"),
        (b"caf\xe9", b"%!PS-Adobe-3.0", "caf\\\\udce9 does not decode .it is no JPEG"),
        (b"\x1b[2J", b"", "\\\\x1b\\[2J does not decode"),
    ):
        path = os.fsdecode(os.fsencode(tmp_path) + b"/" + name)
        if content is not None:
            with open(path, "wb") as file:
                file.write(content)
        assert classify.main([path, "--weights", str(weights)]) == 2
        err = capsys.readouterr().err
        assert re.search(f"^error: .*{text}", err) and err.count("\n") == 1


def test_labels_with_a_mark_and_sequences_for_the_terminal(tmp_path, weights, capsys):
    picture(tmp_path / "x.png")
    (tmp_path / "labels.txt").write_bytes(codecs.BOM_UTF8 + b"one\r\n\x1b[31mtwo\r\n\r\nthr\xc3\xa9e\r\n")
    assert classify.read_labels(tmp_path / "labels.txt", 3) == ["one", "\\x1b[31mtwo", "thrée"]
    command = [str(tmp_path / "x.png"), "--weights", str(weights), "--labels", str(tmp_path / "labels.txt")]
    assert classify.main(command) == 0 and "\x1b" not in capsys.readouterr().out
    (tmp_path / "labels.txt").write_bytes(b"one\ntwo\n\xff\n")
    assert classify.main(command) == 2 and "cannot read labels from" in capsys.readouterr().err


@pytest.mark.parametrize("shape", [(30, 90, 3), (90, 30, 3), (200, 60, 3), (33, 32, 3)])
def test_classify_and_training_see_the_same_pixels(tmp_path, weights, monkeypatch, shape):
    """The whole picture, squashed to a square: what its edges show is not cut off."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        pixels = picture(tmp_path / name / "x.png", shape)
    seen = []
    network = models.build(None, weights=weights)
    original = type(network).__call__
    monkeypatch.setattr(type(network), "__call__", lambda self, x: seen.append(x.data) or original(self, x))
    classify.classify(network, pixels, list("abc"))
    dataset = data.load("folder", tmp_path)
    ((trained, _),) = data.Batches(dataset, [0], batch=1, size=32).in_order()
    np.testing.assert_array_equal(seen[0], trained)
    expected = np.asarray(Image.fromarray(pixels).resize((32, 32), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(trained[0], expected.astype(np.float32) / 255)


def test_training_on_names_of_any_bytes(tmp_path, monkeypatch, capsys):
    """Class folders, files, the data's folder and the run's: the start, the tables, the figures and the report."""
    rng = np.random.default_rng(0)
    root = os.fsencode(tmp_path) + b"/d\xe4ta"
    for name in (b"caf\xe9", b"\x1b[31mred", "grün".encode()):
        os.makedirs(root + b"/" + name)
        for k in range(30):
            pixels = rng.integers(0, 256, (32, 32, 3), np.uint8)
            Image.fromarray(pixels).save(os.fsdecode(root + b"/" + name + b"/\xff%d.png" % k))
    out = os.fsdecode(os.fsencode(tmp_path) + b"/r\xfcn")
    monkeypatch.chdir(tmp_path)
    argv = ["--preset", "smoke", "--data", "folder", "--data-dir", os.fsdecode(root), "--out", out]
    argv += [
        "--clean-iterations",
        "1",
        "--iterations",
        "1",
        "--warmup",
        "0",
        "--networks",
        "resnet20",
        "--method",
        "clean",
    ]
    assert train.main(argv) == 0
    printed = capsys.readouterr().out
    assert "3 classes: \\x1b[31mred 30, caf\\udce9 30, grün 30" in printed and "\x1b" not in printed
    with open(os.path.join(out, "report.html"), encoding="utf-8") as file:
        page = file.read()
    assert "<li>90 images of 3 classes: \\x1b[31mred 30, caf\\udce9 30, grün 30</li>" in page
    assert "<li>split by image: no subjects are known" in page and "minisatm report: r\\udcfcn" in page


def test_how_images_become_squares_is_stored_with_the_weights(tmp_path, weights, capsys):
    Image.new("RGB", (90, 30)).save(tmp_path / "x.png")
    shutil.copy(weights, tmp_path / "x.h5")
    with h5py.File(tmp_path / "x.h5", "r+") as file:
        assert file.attrs["fit"] == "squash"
        file.attrs["fit"] = "middle square"
    assert classify.main([str(tmp_path / "x.png"), "--weights", str(tmp_path / "x.h5")]) == 2
    assert "images made square by 'middle square', and minisatm knows 'squash'" in capsys.readouterr().err
