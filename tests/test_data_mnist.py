"""MNIST's IDX files: plain and gzipped, and every way in which they can be wrong."""

import gzip
import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from minisatm import data
from minisatm.errors import InputError

REAL = Path(os.environ.get("MINISATM_DATA", "")) / "data" / "mnist"
N = {"train": 40, "t10k": 10}


def idx(array):
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.astype(np.uint8).tobytes()


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for part, n in N.items():
        images, labels = rng.integers(0, 256, (n, 28, 28)), np.arange(n) % 10
        (tmp_path / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images)))
        (tmp_path / f"{part}-labels-idx1-ubyte").write_bytes(idx(labels))
    return tmp_path


def test_reads_gzipped_and_plain_files(folder):
    dataset = data.load("mnist", folder)
    raw = gzip.decompress((folder / "t10k-images-idx3-ubyte.gz").read_bytes())
    expected = np.frombuffer(raw, np.uint8, offset=16).reshape(10, 28, 28, 1)
    np.testing.assert_array_equal(dataset.read(43), expected[3])
    assert len(dataset) == 50 and dataset.labels[43] == 3 and dataset.labels.dtype == np.int64
    assert dataset.channels == 1 and not dataset.mirror and len(dataset.classes) == 10
    parts = dataset.split(validation=0.25)
    assert [len(part) for part in parts] == [30, 10, 10] and parts.test.tolist() == list(range(40, 50))
    assert len(set(np.concatenate(parts).tolist())) == 50
    assert dataset.notes == ("40 training and 10 test digits of 28 x 28 pixels",)


def rewrite(name, edit):
    def change(folder):
        path = folder / name
        zipped = path.suffix == ".gz"
        raw = bytearray(gzip.decompress(path.read_bytes()) if zipped else path.read_bytes())
        raw = edit(raw)
        path.write_bytes(gzip.compress(bytes(raw)) if zipped else bytes(raw))

    return change


def cut_gz(folder):
    path = folder / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:2000])


def no_gz(folder):
    (folder / "train-images-idx3-ubyte.gz").write_bytes(b"<html>not found</html>")


@pytest.mark.parametrize(
    "damage, text",
    [
        (lambda f: (f / "t10k-labels-idx1-ubyte").unlink(), "t10k-labels-idx1-ubyte.gz is missing: put MNIST's four"),
        (cut_gz, "train-images-idx3-ubyte.gz is cut short or damaged .*: fetch it again"),
        (no_gz, "train-images-idx3-ubyte.gz is cut short or damaged"),
        (rewrite("t10k-labels-idx1-ubyte", lambda b: b[:-1]), r"labels-idx1-ubyte is cut short .*9 bytes .*\[10\]"),
        (
            rewrite("t10k-labels-idx1-ubyte", lambda b: b + b"\0"),
            r"labels-idx1-ubyte is cut short or damaged.*11 by",
        ),
        (rewrite("t10k-labels-idx1-ubyte", lambda b: b[:6]), r"labels-idx1-ubyte is cut short .*\(6 bytes\)"),
        (
            rewrite("t10k-labels-idx1-ubyte", lambda b: b""),
            "this IDX file .it begins with nothing, not 00 00 08 01",
        ),
        (rewrite("t10k-labels-idx1-ubyte", lambda b: b"\0\0\x08\x03" + b[4:]), "begins with 00 00 08 03, not 00 00"),
        (rewrite("t10k-labels-idx1-ubyte", lambda b: b[:-1] + b"\x0b"), "label 11 is no digit"),
        (rewrite("train-labels-idx1-ubyte", lambda b: idx(np.zeros(39))), "40 train images but 39 labels"),
        (
            rewrite("train-images-idx3-ubyte.gz", lambda b: idx(np.zeros((40, 8, 7)))),
            "images of 8 x 7 pixels, not of 28 x 28",
        ),
    ],
)
def test_files_that_are_not_right_are_named(folder, damage, text):
    damage(folder)
    with pytest.raises(InputError, match=text):
        data.load("mnist", folder)


def header(dimensions, *shape):
    return bytes([0, 0, 8, dimensions]) + np.array(shape, ">u4").tobytes()


@pytest.mark.parametrize(
    "shape",
    [
        (2**32 - 1, 28, 28),  # -1 in signed bytes
        (2**31, 2**31, 4),  # the product is 0 in 64 bits
        (2**32 - 1, 2**32 - 1, 2**32 - 1),
        (0, 2**32 - 1, 2**32 - 1),
        (2**22, 28, 28),
    ],
)
def test_a_header_that_claims_too_much_is_refused(folder, shape):
    (folder / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(header(3, *shape) + b"0123"))
    with pytest.raises(InputError, match=rf"header has the shape \[{shape[0]}, .* more than the 1,073,741,824 bytes"):
        data.load("mnist", folder)


def test_a_header_without_images_is_refused(folder):
    (folder / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(header(3, 0, 28, 28)))
    (folder / "train-labels-idx1-ubyte").write_bytes(header(1, 0))
    with pytest.raises(InputError, match="no images left for the train part"):
        data.load("mnist", folder).split()


def test_a_file_that_unpacks_to_gigabytes_is_not_unpacked(folder):
    """A member of a gzip file may follow another: 2,000 times a megabyte of zeros is a file of two megabytes."""
    zeros = gzip.compress(bytes(2**20))
    images = gzip.compress(idx(np.zeros((40, 28, 28))))
    (folder / "train-images-idx3-ubyte.gz").write_bytes(images + 2000 * zeros)
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=r"31,361 bytes or more for the shape \[40, 28, 28\]\): fetch it again"):
            data.load("mnist", folder)
        assert tracemalloc.get_traced_memory()[1] < 20 * 2**20
    finally:
        tracemalloc.stop()
    (folder / "train-images-idx3-ubyte.gz").write_bytes(zeros * 2000)
    with pytest.raises(InputError, match="begins with 00 00 00 00"):
        data.load("mnist", folder)


def test_a_wrong_checksum_is_seen(folder):
    raw = bytearray((folder / "train-images-idx3-ubyte.gz").read_bytes())
    raw[-6] ^= 1
    (folder / "train-images-idx3-ubyte.gz").write_bytes(raw)
    with pytest.raises(InputError, match="is cut short or damaged .CRC check failed"):
        data.load("mnist", folder)


def test_the_fingerprint_sees_one_pixel_one_label_and_the_seed(folder):
    def fingerprint(seed=0):
        dataset = data.load("mnist", folder)
        return dataset.fingerprint(dataset.split(seed=seed, validation=0.25))

    first = fingerprint()
    assert first["count"] == "30 train, 10 validation, 10 test"
    assert {key for key, value in fingerprint(1).items() if value != first[key]} == {"split"}
    name = "train-images-idx3-ubyte.gz"
    (folder / name.removesuffix(".gz")).write_bytes(gzip.decompress((folder / name).read_bytes()))
    assert fingerprint() == first  # packed or not, the images are the same
    for name in ("train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"):
        raw = bytearray((folder / name).read_bytes())
        raw[-1] ^= 1
        (folder / name).write_bytes(raw)
        assert {key for key, value in fingerprint().items() if value != first[key]} == {"images"}
        first = fingerprint()


@pytest.mark.skipif("MINISATM_DATA" not in os.environ, reason="MINISATM_DATA names no folder with data/mnist")
def test_real_mnist():
    dataset = data.load("mnist", REAL)
    assert len(dataset) == 70000 and dataset.labels[:5].tolist() == [5, 0, 4, 1, 9]
    parts = dataset.split()
    assert len(parts.test) == 10000 and len(parts.train) + len(parts.validation) == 60000
    assert np.bincount(dataset.labels[parts.test]).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    ink = np.mean([dataset.read(index).mean() / 255 for index in range(60000)])
    assert abs(ink - 0.1307) < 1e-4  # the mean pixel of the training images that everyone quotes
