"""All images are opened once before a run; exact copies stay in one part; the fingerprint of a data set."""

import io
import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from minisatm import data
from minisatm.data import checked
from minisatm.errors import InputError


@pytest.fixture
def memory(tmp_path, monkeypatch):
    monkeypatch.setenv("MINISATM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path, memory):
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        for k in range(20):
            (tmp_path / "data" / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(tmp_path / "data" / name / f"{k:02d}.png")
    return tmp_path / "data"


@pytest.fixture
def decoded(monkeypatch):
    """How many files were decoded since the last look."""
    seen = []
    original = checked.decode
    monkeypatch.setattr(checked, "decode", lambda raw: seen.append(1) or original(raw))

    def count():
        number = len(seen)
        seen.clear()
        return number

    return count


def damage(folder):
    whole = (folder / "a" / "03.png").read_bytes()
    (folder / "a" / "03.png").write_bytes(whole[:-30])
    (folder / "a" / "04.png").write_bytes(b"")
    (folder / "b" / "05.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n")
    middle = bytearray((folder / "b" / "06.png").read_bytes())
    middle[80] ^= 255
    (folder / "b" / "06.png").write_bytes(middle)
    with io.BytesIO() as file:
        Image.new("L", (99, 99)).save(file, "JPEG")
        (folder / "b" / "07.png").write_bytes(file.getvalue()[:-100])


def test_all_damaged_images_are_listed_together(folder):
    damage(folder)
    with pytest.raises(InputError) as problem:
        data.load("folder", folder)
    lines = str(problem.value).split("\n")
    assert lines[0] == f"5 of 40 images in {folder} cannot be used: delete them or fetch them again."
    assert [line.split(" (")[0] for line in lines[1:]] == [
        f"  {name}.png does not decode" for name in ("a/03", "a/04", "b/05", "b/06", "b/07")
    ]


def test_a_long_list_is_cut(folder):
    for path in folder.rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(InputError, match="40 of 40 images") as problem:
        data.load("folder", folder)
    assert str(problem.value).count("\n") == 21 and str(problem.value).endswith("\n  and 20 more")


def test_faces_are_checked_as_well(tmp_path, drawn):
    shutil.copytree(drawn, tmp_path / "drawn")
    path = sorted((tmp_path / "drawn").glob("aligned/*/*"))[3]
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(
        InputError, match=f"1 of 160 images in .* cannot be used.*\n  aligned/.*/{path.name} does not dec"
    ):
        data.load("faces", tmp_path / "drawn")


def test_a_second_start_decodes_only_what_is_new_or_changed(folder, decoded, memory):
    steps = []
    first = data.load("folder", folder, progress=lambda done, total: steps.append((done, total)))
    assert decoded() == 40 and steps == [(k, 40) for k in range(1, 41)]
    assert os.listdir(memory) and not [path for path in folder.rglob("*") if path.suffix not in ("", ".png")]
    again = data.load("folder", folder, progress=lambda done, total: pytest.fail("nothing was to be done"))
    assert decoded() == 0 and again.contents == first.contents and again.copies.tolist() == first.copies.tolist()
    shutil.copy(folder / "a" / "01.png", folder / "a" / "new.png")
    os.utime(folder / "a" / "02.png", ns=(1, 1))
    (folder / "b" / "03.png").unlink()
    changed = data.load("folder", folder)
    assert decoded() == 2 and len(changed) == 40
    (folder / "b" / "04.png").write_bytes(b"no longer")
    for _ in range(2):
        with pytest.raises(InputError, match="1 of 40 images"):
            data.load("folder", folder)
        assert decoded() == 1


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"null", b"\xff\xfe", b'{"version": 1}', b'{"version": 1, "files": []}',
     b'{"version": 0, "files": {}}', b'{"version": 1, "files": {"a/00.png": 3}}',
     b'{"version": 1, "files": {"a/00.png": [1, 2, 3]}}', b"[" * 99_999],
)  # fmt: skip
def test_a_damaged_memory_is_as_good_as_none(folder, decoded, memory, content):
    expected = data.load("folder", folder)
    (file,) = memory.iterdir()
    file.write_bytes(content)
    decoded()
    assert data.load("folder", folder).contents == expected.contents and decoded() == 40
    stored = json.loads(file.read_bytes())
    stored["files"]["a/00.png"][2] = None
    file.write_text(json.dumps(stored))
    assert data.load("folder", folder).contents == expected.contents and decoded() == 1


def test_without_a_place_for_the_memory_the_images_are_checked_each_time(folder, decoded, memory):
    memory.write_text("a file where a folder should be")
    for _ in range(2):
        data.load("folder", folder)
        assert decoded() == 40


# --- copies


def part_of(dataset, seed):
    return {dataset.files[k]: part for part, indices in dataset.split(seed=seed)._asdict().items() for k in indices}


def test_exact_copies_stay_in_one_part_and_are_said(folder):
    plain = data.load("folder", folder)
    assert "exact copies" not in "\n".join(plain.notes)
    picture = Image.open(folder / "a" / "00.png")
    shutil.copy(folder / "a" / "00.png", folder / "a" / "00 (1).png")
    picture.save(folder / "b" / "same.bmp")  # another format and name, the same pixels, another class
    picture.save(folder / "b" / "same.tif", compression="tiff_lzw")
    shutil.copy(folder / "b" / "01.png", folder / "b" / "twin.png")
    dataset = data.load("folder", folder)
    said = "exact copies: 6 images in 2 groups, 1 of them with two classes; copies stay in one part"
    assert said in dataset.notes
    for seed in range(30):
        where = part_of(dataset, seed)
        assert len({where[name] for name in ("a/00.png", "a/00 (1).png", "b/same.bmp", "b/same.tif")}) == 1
        assert where["b/01.png"] == where["b/twin.png"] and len(where) == 44


def test_copies_of_two_subjects_bind_them_together():
    subjects = np.arange(200) // 2  # images 1, 10 and 30 are copies, and 11 and 20
    copies = np.arange(200)
    copies[[10, 30]], copies[20] = 1, 11
    bound = data.Dataset("own", ("a", "b"), subjects % 2, None, 3, subjects=subjects, copies=copies)
    together = np.isin(subjects, [0, 5, 10, 15])
    for seed in range(30):
        for part in bound.split(seed=seed):
            assert together[part].sum() in (0, together.sum())
            assert all(np.isin(np.flatnonzero(subjects == s), part).all() for s in set(subjects[part].tolist()))


def test_a_few_subjects_fill_all_parts():
    for count in (3, 4, 7, 10):
        subjects = np.repeat(np.arange(count), 5)
        few = data.Dataset("own", ("a", "b"), subjects % 2, None, 3, subjects=subjects)
        for seed in range(20):
            parts = [set(subjects[part].tolist()) for part in few.split(seed=seed)]
            assert all(parts) and sum(map(len, parts)) == count


def test_data_without_copies_is_split_as_before(folder):
    dataset = data.load("folder", folder)
    before = data.Dataset("own", dataset.classes, dataset.labels, dataset.read, 3)
    for seed in range(5):
        assert all(np.array_equal(a, b) for a, b in zip(dataset.split(seed=seed), before.split(seed=seed)))


# --- the fingerprint


def fingerprint(folder, name="folder", **split):
    dataset = data.load(name, folder)
    return dataset.fingerprint(dataset.split(**split))


def differing(one, other):
    assert one.keys() == other.keys() == {"classes", "count", "images", "split"}
    return {key for key in one if one[key] != other[key]}


def test_a_fingerprint_is_that_of_the_data_and_not_of_its_place(folder, tmp_path):
    first = fingerprint(folder)
    assert first["classes"] == '["a", "b"]' and first["count"] == "28 train, 4 validation, 8 test"
    assert all(isinstance(value, str) for value in first.values()) and json.loads(json.dumps(first)) == first
    shutil.copytree(folder, tmp_path / "moved")
    os.utime(tmp_path / "moved" / "a" / "00.png", ns=(5, 5))
    assert differing(first, fingerprint(tmp_path / "moved")) == set()


def swap(folder):
    (folder / "a").rename(folder / "c")
    (folder / "b").rename(folder / "a")
    (folder / "c").rename(folder / "b")


@pytest.mark.parametrize(
    "change, keys",
    [
        (lambda f: shutil.copy(f / "a" / "00.png", f / "a" / "zz.png"), {"count", "images", "split"}),
        (lambda f: (f / "a" / "00.png").unlink(), {"count", "images", "split"}),
        (lambda f: (f / "a").rename(f / "c"), {"classes", "images", "split"}),
        (swap, {"images"}),
        (lambda f: shutil.copy(f / "a" / "00.png", f / "a" / "01.png"), {"images"}),
        (lambda f: (f / "classes.txt").write_text("b\na\n"), {"classes", "split"}),
        (lambda f: Image.new("RGB", (8, 8)).save(f / "b" / "19.png"), {"images"}),
        (lambda f: (f / "subjects.csv").write_text("file,subject\n" + "".join(
            f"{c}/{k:02d}.png,{k // 2}\n" for c in "ab" for k in range(20))), {"split"}),
    ],
)  # fmt: skip
def test_a_fingerprint_shows_what_changed(folder, change, keys):
    before = fingerprint(folder)
    change(folder)
    assert differing(before, fingerprint(folder)) - {"count"} == keys - {"count"}
    assert ("count" in keys) <= (before["count"] != fingerprint(folder)["count"])


def test_the_fingerprint_of_another_split_or_other_faces(folder, drawn, tmp_path):
    assert differing(fingerprint(folder), fingerprint(folder, seed=1)) == {"split"}
    first = fingerprint(drawn, "faces")
    assert differing(first, fingerprint(drawn, "faces", fold=1)) == {"split"}
    assert first["count"].endswith(" validation, 32 test")
    shutil.copytree(drawn, tmp_path / "drawn")
    assert differing(first, fingerprint(tmp_path / "drawn", "faces")) == set()
    fold = tmp_path / "drawn" / "fold_3_data.txt"
    fold.write_text(fold.read_text().replace("(25, 32)", "(38, 43)", 1))  # another label for one image
    assert differing(first, fingerprint(tmp_path / "drawn", "faces")) == {"images"}
