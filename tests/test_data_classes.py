"""A folder's classes and their order, what is no picture of them, and whose pictures they are."""

import codecs

import numpy as np
import pytest
from PIL import Image

from minisatm import data
from minisatm.errors import InputError


def draw(path, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)).save(path)


def folder_of(root, classes, each=1):
    for k, name in enumerate(classes):
        for n in range(each):
            draw(root / name / f"{n:02d}.png", [k, n])
    return root


@pytest.mark.parametrize(
    "classes",
    [
        ["0-2", "4-6", "8-13", "15-20", "25-32", "38-43", "48-53", "60-100"],
        ["(0, 2)", "(4, 6)", "(8, 12)", "(15, 20)", "(60, 100)"],
        [str(k) for k in range(1, 13)],
        ["age5", "age20", "age100"],
        ["a2", "a10", "b1"],
        ["0–2", "4–6", "15–20"],
        ["<5", "5-10", "11-20", ">60"],
        ["-10", "-5", "0", "5", "10"],
        ["grade 1 low", "grade 1 new", "grade 9 low", "grade 10 low"],
        ["007", "8", "009"],
        ["Zebra", "apple", "pear"],  # without numbers: as before
    ],
)
def test_classes_are_in_natural_order(tmp_path, classes):
    dataset = data.load("folder", folder_of(tmp_path, classes))
    assert dataset.classes == tuple(classes) and dataset.labels.tolist() == list(range(len(classes)))
    assert ": " + ", ".join(f"{name} 1" for name in classes) in dataset.notes[0]
    assert "classes in the order of their names; a file classes.txt can give another" in dataset.notes


@pytest.mark.parametrize(
    "mark, encoding",
    [
        (b"", "utf-8"),
        (codecs.BOM_UTF8, "utf-8"),
        (codecs.BOM_UTF16_LE, "utf-16-le"),
        (codecs.BOM_UTF16_BE, "utf-16-be"),
    ],
)
def test_classes_txt_gives_the_order(tmp_path, mark, encoding):
    folder_of(tmp_path, ["low", "high", "grün"])
    (tmp_path / "classes.txt").write_bytes(mark + "low\r\n gru\u0308n/\r\n\r\nhigh".encode(encoding))  # ü in two parts
    dataset = data.load("folder", tmp_path)
    assert dataset.classes == ("low", "grün", "high") and "classes in the order of classes.txt" in dataset.notes
    draw(tmp_path / "expected.png", [0, 0])
    np.testing.assert_array_equal(dataset.read(0), np.asarray(Image.open(tmp_path / "expected.png")))


@pytest.mark.parametrize(
    "text, wrong",
    [
        ("a\nb\n", r"\(not listed: c\)"),
        ("a\nb\nc\nd\n", r"\(no directory: d\)"),
        ("a\nb\nb\nc\n", r"\(listed twice: b\)"),
        ("", r"\(not listed: a, b, c\)"),
        ("A\nb\nc\nc\n", r"\(listed twice: c; no directory: A; not listed: a\)"),
        ("a, b, c\n", r"\(no directory: a, b, c; not listed: a, b, c\)"),
        ("a\nb\nc\n\x1b[2J", r"\(no directory: \\x1b\[2J\)"),
    ],
)
def test_classes_txt_that_does_not_fit_is_refused(tmp_path, text, wrong):
    folder_of(tmp_path, "abc")
    (tmp_path / "classes.txt").write_text(text)
    with pytest.raises(InputError, match=f"classes.txt does not fit the folder {wrong}: list each class once"):
        data.load("folder", tmp_path)
    (tmp_path / "classes.txt").write_bytes(b"a\nb\xff\nc")
    with pytest.raises(InputError, match="classes.txt cannot be read as text .*: write one class a line, in UTF-8"):
        data.load("folder", tmp_path)


HIDDEN = [
    ".ipynb_checkpoints/00-checkpoint.png", ".Trash-1000/files/x.png", ".thumbnails/x.png", "__MACOSX/old/._00.png",
    "@eaDir/00.png/thumb.jpg", "#recycle/x.png", "$RECYCLE.BIN/x.png", "lost+found/x.png", "deep/.git/x.png",
    "._00.png", ".hidden.jpg", "System Volume Information/x.png", "@Recycle/x.png",
]  # fmt: skip


def test_hidden_files_and_folders_are_no_pictures(tmp_path):
    folder_of(tmp_path, ["old", "young"], each=2)
    for name in HIDDEN:
        draw(tmp_path / "old" / name)
        draw(tmp_path / name)  # beside the classes they are no class either
    for name in ("Thumbs.db", ".DS_Store", "desktop.ini"):
        (tmp_path / "old" / name).write_bytes(b"\0")
    draw(tmp_path / "old" / "album" / "x.png", 7)
    draw(tmp_path / "old" / "#1.png", 8)
    draw(tmp_path / "deep2" / "x.png", 9)
    (tmp_path / "deep").rename(tmp_path / ".deep")
    dataset = data.load("folder", tmp_path)
    assert dataset.classes == ("deep2", "old", "young")
    assert dataset.files == ("deep2/x.png", "old/#1.png", "old/00.png", "old/01.png", "old/album/x.png", "young/00.png",
                             "young/01.png")  # fmt: skip
    assert f"left out, hidden ({len(HIDDEN)}): old/#recycle/x.png, old/$RECYCLE.BIN/x.png, " in "\n".join(dataset.notes)
    assert "left out, not images (2): old/Thumbs.db, old/desktop.ini" in dataset.notes


# --- subjects


def people(root):
    """Two classes; each person has three pictures, anna in both classes."""
    names = {}
    for label in ("old", "young"):
        for person in ["anna", *(f"{label}{k}" for k in range(20))]:
            for k in range(3):
                names[f"{label}/{person}/{k}.png"] = person
    for seed, name in enumerate(names):
        draw(root / name, seed)
    return names


def apart(dataset, names):
    parts = [{names[dataset.files[k]] for k in part} for part in dataset.split()]
    assert not parts[0] & parts[1] and not parts[0] & parts[2] and not parts[1] & parts[2]
    return sum(map(len, parts))


def test_a_directory_for_each_subject_splits_by_subject(tmp_path):
    names = people(tmp_path)
    dataset = data.load("folder", tmp_path)
    assert apart(dataset, names) == 41
    assert "split by subject: 41 subjects, named by the directories inside the classes" in dataset.notes
    draw(tmp_path / "old" / "beside.png", 999)
    notes = data.load("folder", tmp_path).notes
    assert any(
        note.startswith("split by image: no subjects are known; 126 images are in directories") for note in notes
    )


@pytest.mark.parametrize("separator, mark", [(",", b""), (";", codecs.BOM_UTF8), ("\t", codecs.BOM_UTF16_LE)])
def test_subjects_csv_splits_by_subject(tmp_path, separator, mark):
    names = {f"{label}/{k:02d}.png": f"person, {k // 3}" for label in ("old", "young") for k in range(60)}
    for seed, name in enumerate(names):
        draw(tmp_path / name, seed)
    notes = data.load("folder", tmp_path).notes
    reason = "no subjects are known, so that one person can be in several parts"
    assert f"split by image: {reason} (a file subjects.csv, or one directory per subject inside each class" in notes[-1]
    rows = ["Subject,File,note".replace(",", separator)]
    rows += [separator.join([f'"{person}"', file.replace("/", "\\"), ""]) for file, person in names.items()]
    encoding = "utf-16-le" if mark == codecs.BOM_UTF16_LE else "utf-8"
    (tmp_path / "subjects.csv").write_bytes(mark + "\r\n".join(rows).encode(encoding))
    dataset = data.load("folder", tmp_path)
    assert apart(dataset, names) == 20
    assert "split by subject: 20 subjects, named by subjects.csv" in dataset.notes


@pytest.mark.parametrize(
    "text, wrong",
    [
        ("", "does not begin with the columns file and subject: write a line file,subject and then one line for each"),
        ("a/00.png,x\n", "does not begin with the columns file and subject"),
        ("file,subject\na/00.png,x\n", r"names no subject for 1 of 2 images \(b/00.png\): add a line for each"),
        ("file,subject\na/00.png,x\nb/00.png, \n", r"names no subject for 1 of 2 images \(b/00.png\)"),
        ("file,subject\na/00.png,x\na/00.png,y\n", "line 3: a/00.png has two subjects"),
        ("file,subject\na/00.png\n", "line 2: 1 columns where the first line has 2"),
        ("file,subject\n" + "a" * 200_000 + ",x\n", "line 2: field larger than field limit"),
    ],
)
def test_subjects_csv_that_does_not_fit_is_refused(tmp_path, text, wrong):
    folder_of(tmp_path, "ab")
    (tmp_path / "subjects.csv").write_text(text)
    with pytest.raises(InputError, match=f"subjects.csv,? {wrong}"):
        data.load("folder", tmp_path)
