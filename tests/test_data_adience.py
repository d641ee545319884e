"""Adience's fold files: counts, label policies, disjoint subjects, and what is said of files that are not right."""

import codecs
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from minisatm import data
from minisatm.data import adience
from minisatm.errors import InputError

REAL = Path(os.environ.get("MINISATM_DATA", "")) / "data" / "adience"
real = pytest.mark.skipif(
    "MINISATM_DATA" not in os.environ, reason="MINISATM_DATA names no folder with data/adience: real counts not checked"
)
AGES = [*adience.GROUPS, "(25, 23)", "35", "None"]


def row(user, image, face, age):
    return "\t".join([user, image, face, age, "f", *"000000", "100"])


@pytest.fixture
def folder(tmp_path):
    """One subject per label in each fold, all of them on the same two photographs, the first row repeated."""
    for fold in range(5):
        rows = [row(f"{fold}@N", f"{k}.jpg", f"{fold}{face}", age) for face, age in enumerate(AGES) for k in "ab"]
        (tmp_path / f"fold_{fold}_data.txt").write_text("\n".join([adience.HEADER, *rows, rows[0]]) + "\n")
    for face in adience.read_folds(tmp_path)[0]:
        path = tmp_path / face.path
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 20), (face.fold * 40, 0, 0)).save(path)
    return tmp_path


@pytest.mark.parametrize("labels, faces, dropped", [("strict", 80, 30), ("strict+fix", 90, 20), ("mapped", 100, 10)])
def test_policies_on_a_small_folder(folder, labels, faces, dropped):
    dataset = data.load("adience", folder, labels=labels)
    assert len(dataset) == faces and dataset.classes[2] == "(8, 12)" and dataset.channels == 3
    notes = "\n".join(dataset.notes)
    assert "115 rows, 5 of them repeated: 110 faces listed of 55 subjects" in notes
    assert 'counts 26,580 faces and says "8-13"; these files list 110 and say "(8, 12)"' in notes
    assert f"labels {labels}: {faces} faces, by fold " + " ".join([str(faces // 5)] * 5) in notes
    assert f"dropped {dropped} faces without one of the eight labels: " in notes and "None 10" in notes


def test_images_belong_to_their_rows(folder):
    dataset = data.load("adience", folder)
    for index in (0, 17, 79):
        image = dataset.read(index)
        assert image.shape == (20, 20, 3) and image.dtype == np.uint8
        assert abs(int(image[0, 0, 0]) - 40 * dataset.folds[index]) < 8


def test_group_of():
    known = {"(0, 2)": 0, "(60, 100)": 7}
    for labels in adience.POLICIES:
        assert {age: adience.group_of(age, labels) for age in known} == known
        assert adience.group_of("None", labels) is adience.group_of("", labels) is None
    assert adience.group_of("(25, 23)") is None and adience.group_of("(25, 23)", "strict+fix") == 4
    assert adience.group_of("35", "strict+fix") is None
    nearest = {"2": 0, "3": 0, "13": 2, "22": 3, "23": 4, "(27, 32)": 4, "34": 4, "36": 5, "(38, 42)": 5, "45": 5,
               "46": 6, "55": 6, "57": 7, "(8, 23)": 3, "35": 4}  # fmt: skip
    assert {age: adience.group_of(age, "mapped") for age in nearest} == nearest
    with pytest.raises(InputError, match="labels 'loose' are not known: choose strict, strict.fix, mapped"):
        adience.group_of("35", "loose")


def test_missing_images_are_counted_and_left_out(folder):
    for face in adience.read_folds(folder)[0]:
        if face.fold == 2 and face.group == 1:
            (folder / face.path).unlink()
    dataset = data.load("adience", folder)
    assert len(dataset) == 78
    assert "2 listed images are missing and left out (missing_images.txt): aligned/2@N/" in dataset.notes[-1]
    assert len(dataset.missing) == 2 and dataset.missing[0] == "aligned/2@N/landmark_aligned_face.21.a.jpg"


def test_no_images_at_all_says_how_to_lay_them_out(folder):
    (folder / "aligned").rename(folder / "elsewhere")
    with pytest.raises(InputError, match="none of the 80 listed images is there, the first would be aligned/0@N/") as e:
        data.load("adience", folder)
    assert "python -m minisatm.data.faces DIR" in str(e.value)


def test_a_missing_fold_file_is_named(folder):
    (folder / "fold_3_data.txt").unlink()
    with pytest.raises(InputError, match="fold_3_data.txt is missing: put Adience's five fold files there"):
        data.load("adience", folder)


@pytest.mark.parametrize(
    "edit, text",
    [
        (lambda t: t[: t.rindex("\t")], "line 24: cut short"),
        (lambda t: t.replace("\tf\t", "\t", 1), "line 2: 11 columns where Adience has 12"),
        (lambda t: t.replace("user_id", "user", 1), "line 1: not Adience's header of 12"),
        (lambda t: "", "line 1: not Adience's header"),
        (lambda t: adience.HEADER + "\n", "line 2: cut short"),
        (lambda t: t.replace("a.jpg", "../a.jpg", 1), "line 2: .* are not plain names"),
        (lambda t: t.replace("\n1@N\t", "\n\t", 1), "line 2: .*one of the first four is empty"),
    ],
)
def test_malformed_files_are_named_with_their_line(folder, edit, text):
    path = folder / "fold_1_data.txt"
    path.write_text(edit(path.read_text()))
    with pytest.raises(InputError, match=f"fold_1_data.txt, {text}"):
        adience.read_folds(folder)


def test_bytes_that_are_no_text_and_line_ends_of_windows(folder):
    path = folder / "fold_1_data.txt"
    expected = adience.read_folds(folder)
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert adience.read_folds(folder) == expected
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="fold_1_data.txt cannot be read as text"):
        adience.read_folds(folder)


@pytest.mark.parametrize("mark, encoding", [(codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le")])
def test_a_mark_at_the_beginning_of_a_fold_file(folder, mark, encoding):
    path = folder / "fold_1_data.txt"
    expected = adience.read_folds(folder)
    path.write_bytes(mark + path.read_text().encode(encoding))
    assert adience.read_folds(folder) == expected


@pytest.mark.parametrize(
    "odd", ["\0", "7" * 5000, "\x1b[2J\x1b]0;owned\x07", "\u202e", "\x9b31m", "\x08\x08", "\x7f", "\x0c"]
)
@pytest.mark.parametrize("field", [0, 1, 2, 3, 4, 11])
def test_fields_that_are_no_text(folder, odd, field):
    path = folder / "fold_1_data.txt"
    lines = path.read_text().split("\n")
    fields = lines[4].split("\t")
    fields[field] += odd
    lines[4] = "\t".join(fields)
    path.write_text("\n".join(lines))
    with pytest.raises(
        InputError, match="fold_1_data.txt, line 5: characters that are not text, or a field"
    ) as problem:
        adience.read_folds(folder, "mapped")
    assert str(problem.value).isprintable() and len(str(problem.value)) < 300


def test_ages_that_nobody_has():
    for age in ("7" * 5000, "(0, " + "9" * 400 + ")", "1000"):
        assert [adience.group_of(age, labels) for labels in adience.POLICIES] == [None] * 3
    assert adience.group_of("100", "mapped") == 7


def test_a_subject_in_two_folds_is_refused(folder):
    with (folder / "fold_4_data.txt").open("a") as file:
        file.write(row("0@N", "new.jpg", "03", "(0, 2)") + "\n")
    with pytest.raises(InputError, match="subject 0@N 03 is in folds 0 and 4"):
        adience.read_folds(folder)


def test_split_by_fold_keeps_subjects_apart(folder):
    dataset = data.load("adience", folder)
    parts = dataset.split(fold=4, seed=1, validation=0.25)
    assert [len(part) for part in parts] == [48, 16, 16]
    assert not set(dataset.subjects[parts.train]) & set(dataset.subjects[parts.validation])
    again = dataset.split(fold=4, seed=1, validation=0.25)
    assert all(np.array_equal(a, b) for a, b in zip(parts, again))
    assert not np.array_equal(parts.validation, dataset.split(fold=4, seed=2, validation=0.25).validation)
    assert len(dataset.split(validation=0).validation) == 0
    for fold in (5, -1, "all"):
        with pytest.raises(InputError, match=f"fold {fold} does not exist: choose 0, 1, 2, 3 or 4"):
            dataset.split(fold=fold)
    with pytest.raises(InputError, match="a validation share of 1: give 0 or more and less than 1"):
        dataset.split(validation=1)


@pytest.mark.parametrize(
    "labels, per_fold",
    [("strict", [4305, 3092, 3285, 2963, 3676]), ("strict+fix", [4377, 3092, 3285, 2963, 3676])],
)
@real
def test_counts_of_the_real_fold_files(labels, per_fold):
    faces, notes = adience.read_folds(REAL, labels)
    used = [face for face in faces if face.group is not None]
    assert notes[0] == "19,487 rows, 117 of them repeated: 19,370 faces listed of 2,284 subjects"
    assert len(faces) == 19370 and len({(face.user, face.face) for face in faces}) == 2284
    assert len({face.user for face in faces}) == 168
    counts = Counter(face.fold for face in used)
    assert [counts[fold] for fold in range(5)] == per_fold
    groups = Counter(face.group for face in used)
    if labels == "strict":
        assert len(used) == 17321 and groups.most_common(1)[0][0] == 4
        assert round(100 * groups[4] / len(used), 1) == 28.5
        assert round(100 * (groups[3] + groups[4] + groups[5]) / len(used), 1) == 51.2


@real
def test_real_fold_files_without_images_say_what_to_do():
    if (REAL / "aligned").exists():
        pytest.skip("the images are there")
    with pytest.raises(InputError, match="none of the 17,321 listed images is there"):
        data.load("adience", REAL)
