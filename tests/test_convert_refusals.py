"""What the readers of other frameworks' weight files refuse, and in which words."""

import io
import struct
import tracemalloc
import zipfile

import h5py
import numpy as np
import pytest
from weight_files import (
    KINDS,
    A,
    B,
    Call,
    Global,
    Saved,
    blob,
    caffe_layer,
    config_of,
    field,
    keras2,
    keras3,
    keras_archive,
    npz_of,
    opcodes,
    pickled,
    refusal,
    safetensors_file,
    small,
    tensor,
    torch_legacy,
    torch_zip,
    varint,
)

from weights_convert.readers import checks

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 574671192\n"


# ---- what is refused, by its text


def test_what_is_no_file_of_weights_is_named(tmp_path):
    assert refusal(tmp_path) == "is a directory: give the weight file in it."
    assert refusal(tmp_path / "no").startswith("there is no file ")

    def text(data):
        (tmp_path / "f").write_bytes(data)
        return refusal(tmp_path / "f")

    assert text(b"") == "is empty: download or copy it again."
    assert text(LFS) == f"is a Git LFS pointer of {len(LFS)} bytes: fetch the file itself with git lfs pull."
    assert text(b"\n <!DOCTYPE html><html>") == (
        "is a web page, not the file that it links to: download the file itself."
    )
    assert text(b"\x1f\x8b\x08") == "is compressed with gzip: unpack it with gunzip first."
    assert text(b"\x80\x04N.").startswith("is a plain Python pickle, which is not read: save the arrays with")
    assert text(b"name: 'LeNet'") == (
        "is the definition of a network for Caffe, without weights: give the .caffemodel."
    )
    assert text(b"\x93NUMPY").startswith("is a single array: save all arrays by name")
    assert text(b"hello") == (
        "has no known format, or its start is damaged: give a file of Keras .h5 or .keras, PyTorch .pth, safetensors, "
        ".caffemodel, .npz."
    )
    with zipfile.ZipFile(tmp_path / "z", "w") as archive:
        archive.writestr("a/b\n.txt", "")
    assert refusal(tmp_path / "z").startswith("is a zip archive of other files (a/b\\n.txt): unpack it and give")
    np.savez(tmp_path / "e.npz", *[])
    assert refusal(npz_of(tmp_path / "o", {"o": np.array([{}], object)})) == (
        "holds Python objects in o, which are not read: save plain arrays."
    )
    assert refusal(npz_of(tmp_path / "o", {"o": np.array(["text"])})).startswith("holds no numbers in o (<U4): give")
    assert refusal(torch_zip(tmp_path / "p", pickled({"epoch": 3}), {})) == (
        "(PyTorch zip) holds no weights: give the file with the trained weights."
    )
    assert refusal(torch_zip(tmp_path / "p", pickled([1]), {})).startswith("holds no names: torch.save the model.state")


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_cut_short_says_so(tmp_path, kind):
    path = small(tmp_path / "whole", kind)
    data = path.read_bytes()
    for length in (len(data) - 1, len(data) // 2, 40):
        (tmp_path / "cut").write_bytes(data[:length])
        text = refusal(tmp_path / "cut")
        assert text.startswith("is cut short or damaged (") and text.endswith("): download or copy it again."), text


@pytest.mark.parametrize("module, name, what", [
    ("posix", "system", "is not a state_dict"),
    ("builtins", "eval", "is not a state_dict"),
    ("models.resnet", "ResNet", "is not a state_dict"),
    ("torch.nn.modules.conv", "Conv2d", "is a whole saved model"),
    ("torch", "load", "is not a state_dict"),
    ("evil\x1b", "x", "is not a state_dict"),
])  # fmt: skip
def test_nothing_that_a_pickle_names_is_run(tmp_path, module, name, what):
    for saved in (Call(Global(module, name), (f"touch {tmp_path}/canary",)), {"w": Call(Global(module, name), ())}):
        for path in (torch_zip(tmp_path / "z", pickled(saved), {}), torch_legacy(tmp_path / "l", pickled(saved), {})):
            full = f"{module}.{name}".replace("\x1b", "\\x1b")
            assert refusal(path) == (
                f"{what} (it asks Python for {full}), and no code in a file is run here: if you trust it, load "
                "it with the program that wrote it and torch.save the model.state_dict()."
            )
    assert not (tmp_path / "canary").exists()


def test_a_legacy_file_ends_with_its_last_storage(tmp_path):
    path = small(tmp_path / "l", "PyTorch legacy")
    path.write_bytes(path.read_bytes() + b"0")
    assert "there are bytes after its last storage" in refusal(path)


def test_a_saved_module_of_the_legacy_format_is_refused(tmp_path):
    saved = Saved(("module", "class", "source.py", "text"))
    assert refusal(torch_legacy(tmp_path / "l", pickled(saved), {})) == (
        "is a whole saved model: load it with the program that wrote it and torch.save the model.state_dict()."
    )


F = struct.pack("<12f", *range(12))
BROKEN_TENSORS = {
    "outside by offset": (tensor("0", 12, (3, 4), (4, 1), offset=1), "outside its storage"),
    "outside by stride": (tensor("0", 12, (3, 4), (5, 1)), "outside its storage"),
    "outside by size": (tensor("0", 12, (13,), (1,)), "outside its storage"),
    "negative stride": (tensor("0", 12, (3,), (-1,), offset=5), "negative or too many dimensions"),
    "negative size": (tensor("0", 12, (-3,), (1,)), "negative or too many dimensions"),
    "negative offset": (tensor("0", 12, (3,), (1,), offset=-1), "negative or too many dimensions"),
    "huge size": (tensor("0", 12, (2**60,), (0,)), "negative or too many dimensions"),
    "size and stride": (tensor("0", 12, (3, 4), (1,)), "negative or too many dimensions"),
    "dimensions": (tensor("0", 12, (1,) * 9, (1,) * 9), "negative or too many dimensions"),
    "a bool": (tensor("0", 12, (True,), (1,)), "negative or too many dimensions"),
    "a short storage": (tensor("0", 14, (3,), (1,)), "storage 0 has 48 bytes"),
    "no storage": (tensor("7", 12, (3,), (1,)), "archive/data/7"),
    "an old view outside": (tensor("0", 12, (3,), (1,), view=(("9", 10, 4),)), "outside another"),
    "a list as storage": (Call(Global("torch._utils", "_rebuild_tensor_v2"), ([], 0, (), ())), "a broken tensor"),
    "a parameter": (Call(Global("torch._utils", "_rebuild_parameter"), ([], 0, ())), "a parameter without a tensor"),
}


@pytest.mark.parametrize("case", BROKEN_TENSORS)
def test_a_tensor_reads_its_own_storage_and_nothing_else(tmp_path, case):
    saved, text = BROKEN_TENSORS[case]
    assert text in refusal(torch_zip(tmp_path / "z", pickled({"w": saved}), {"0": F}))


BOMBS = {
    "the expanded tensor": pickled({"w": tensor("0", 12, (2**20, 12), (0, 1))}),
    "a memo of four thousand million": b"\x80\x02Nr\xff\xff\xff\xff0}.",
    "a string of four gigabytes": b"\x80\x02X\xff\xff\xff\xffabc.",
    "a bytearray": b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b".",
    "lists in lists": b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".",
    "a tuple of tuples as key": b"\x80\x02})" + b"q\x00h\x00\x86" * 200 + b"Ns" + b".",
    "a set": b"\x80\x04\x8f.",
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_pickle_cannot_ask_for_memory_or_time(tmp_path, bomb):
    path = torch_zip(tmp_path / "z", BOMBS[bomb], {"0": F})
    tracemalloc.start()
    refusal(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**24


def test_a_name_that_comes_twice_in_a_pickle_is_refused(tmp_path):
    pair = opcodes("w") + opcodes(tensor("0", 12, (12,), (1,)))
    path = torch_zip(tmp_path / "z", b"\x80\x02}(" + 2 * pair + b"u.", {"0": F})
    assert "the name w twice" in refusal(path)


def test_zips_out_of_proportion_or_with_two_members_of_a_name_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "z", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("w.npy", bytes(2**23))
    size = (tmp_path / "z").stat().st_size
    assert refusal(tmp_path / "z") == (
        f"has {size} bytes and needs more than 20 times as much memory, or more than 16 GiB: it is damaged or made to "
        "do harm, so download it from its publisher."
    )
    with zipfile.ZipFile(tmp_path / "z", "w") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("w.npy", b"1")
        archive.writestr("w.npy", b"2")
    assert "two members with one name" in refusal(tmp_path / "z")


@pytest.mark.parametrize("method", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_a_zip_packed_in_another_way_is_refused(tmp_path, method):
    """Its unpackers make room for what the file says, up to 4 GiB."""
    path = tmp_path / "z"
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("a.npy", b"\x93NUMPY\x01\x00" + bytes(100))
    assert "a compression that no writer of weights uses" in refusal(path)


def test_a_member_longer_than_the_archive_is_refused_before_room_is_made(tmp_path):
    path = tmp_path / "z"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", bytes(100))
    data = bytearray(path.read_bytes())
    entry = data.rindex(b"PK\x01\x02")
    data[entry + 20 : entry + 24] = struct.pack("<I", 2**30)  # its compressed size in the central directory
    path.write_bytes(data)
    tracemalloc.start()
    assert "a member that is longer than the archive" in refusal(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**24


def test_a_member_shorter_than_its_entry_says_is_refused(tmp_path):
    path = npz_of(tmp_path / "n", {"w": A})
    data = bytearray(path.read_bytes())
    at = data.index(b"PK\x01\x02") + 24  # the size of the unpacked member, in the archive's directory
    data[at : at + 4] = struct.pack("<I", int.from_bytes(data[at : at + 4], "little") + 4)
    path.write_bytes(data)
    assert "w.npy ends after 176 of 180 bytes" in refusal(path)


def test_an_npz_is_as_large_as_its_headers_say(tmp_path):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (2**40,)})
    assert "w does not have the size in its header" in refusal(npz_of(tmp_path / "n", {"w": file.getvalue() + F}))


def entry(**changes):
    return {"dtype": "F32", "shape": [12], "data_offsets": [0, 48], **changes}


@pytest.mark.parametrize("header, text", [
    ({"w": entry(shape=[13])}, "w does not have the size in its header"),
    ({"w": entry(shape=[-12])}, "w has 1 dimensions, [-12]"),
    ({"w": entry(shape=[1] * 9)}, "w has 9 dimensions"),
    ({"w": entry(data_offsets=[0, 52], shape=[13])}, "w lies at 0 to 52 of 48 bytes"),
    ({"w": entry(data_offsets=[4, 48], shape=[11])}, "w lies at 4 to 48 of 48 bytes"),
    ({"w": entry(), "v": entry()}, "lies at 0 to 48 of 48 bytes"),
    ({"w": entry(data_offsets=[0, 44], shape=[11])}, "4 bytes belong to no tensor"),
    ({"w": entry(dtype="F8_E4M3")}, "holds w as F8_E4M3, which is not read: save it again in float32, float16"),
    (b'{"w": {}, "w": {}}', "two entries with one name"),
    (b'{"w": ', "JSONDecodeError"),
    (b"{" * 100_000, "damaged"),
])  # fmt: skip
def test_safetensors_that_contradict_themselves_are_refused(tmp_path, header, text):
    assert text in refusal(safetensors_file(tmp_path / "s", header, F))


@pytest.mark.parametrize("message, text", [
    (caffe_layer("w", blob(A, field(7, field(1, bytes([5]))))), "w/0 holds 12 numbers for the shape [5]"),
    (caffe_layer("w", blob(A, field(7, field(1, bytes([1] * 12))))), "w/0 has 12 dimensions"),
    (caffe_layer("w", blob(A)) * 2, "holds two tensors named w/0: download or make it again."),
    (caffe_layer("w", field(5, b"abc")), "half a number at the end"),
    (caffe_layer("w"), "has layers without weights (Caffe's first format, or only the definition of a network): "),
    (field(1, b"net") + b"\x0b", "field 1 of wire type 3"),
    (field(1, b"net") + varint(100 << 3 | 2) + b"\xff\xff\xff\xff\x7f", "bytes after its message"),
    (field(1, b"net") + b"\x80" * 20, "an integer of more than ten bytes"),
])  # fmt: skip
def test_broken_caffemodels_are_refused(tmp_path, message, text):
    (tmp_path / "c").write_bytes(message)
    assert text in refusal(tmp_path / "c")


def linked(group, path):
    group["0"] = h5py.ExternalLink(str(path / "other.h5"), "w")


def soft(group, _):
    group["0"] = h5py.SoftLink("/w")


def virtual(group, path):
    layout = h5py.VirtualLayout((4,), "f4")
    layout[:] = h5py.VirtualSource(str(path / "other.h5"), "w", (4,))
    group.create_virtual_dataset("0", layout)


def external(group, path):
    group.create_dataset("0", (4,), "f4", external=[(str(path / "raw"), 0, 16)])


def plug_in(group, _):
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_chunk((4,))
    plist.set_filter(32015, h5py.h5z.FLAG_OPTIONAL)
    h5py.h5d.create(group.id, b"0", h5py.h5t.IEEE_F32LE, h5py.h5s.create_simple((4,)), plist)


def never_written(group, _):
    group.create_dataset("0", (4,), "f4")


def huge(group, _):
    group.create_dataset("0", (2**40,), "f4", chunks=(2**10,))


def huge_chunk(group, _):
    group.create_dataset("0", (4,), "f4", chunks=(2**29,), maxshape=(None,))


def words(group, _):
    group["0"] = "text"


def again(group, _):
    group["0"] = A
    group.parent["more"] = group.parent


def group_as_number(group, _):
    group.create_group("0")


@pytest.mark.parametrize("fill, text", [
    (linked, "has a link in place of 0: copy the linked data into one file."),
    (soft, "has a link in place of 0: copy the linked data into one file."),
    (virtual, "keeps d/0 in another file: copy the data into one file."),
    (external, "keeps d/0 in another file: copy the data into one file."),
    (plug_in, "compresses d/0 with a plug-in of HDF5: save it without, or with gzip."),
    (never_written, "is cut short or damaged (the numbers of d/0 were never written): download or copy it again."),
    (huge, "needs more than 20 times as much memory"),
    (huge_chunk, "needs more than 20 times as much memory"),
    (words, "holds no numbers in d/0 (object): give a weight file."),
    (again, "something in place of a group, or a group twice"),
    (group_as_number, "no data at d/0"),
])  # fmt: skip
def test_an_h5_file_that_reaches_out_is_refused(tmp_path, fill, text):
    for folder in ("vars", "d"):  # the form of Keras 3 and, where it is no matter of groups, that of Keras 2
        keras3(tmp_path / "other.h5", {"w": B})
        (tmp_path / "raw").write_bytes(B.tobytes())
        with h5py.File(tmp_path / "f", "w") as file:
            group = file.create_group(f"layers/d/{folder}" if folder == "vars" else folder)
            fill(group, tmp_path)
            if folder == "d":
                file.attrs["layer_names"], group.attrs["weight_names"] = [b"d"], [b"0"]
                if fill is again:
                    continue
        expected = text if folder == "vars" else text.replace("d/0", "0").replace("of 0:", "of d/0:")
        assert expected.replace("d/0", "0") in refusal(tmp_path / "f").replace("d/0", "0")


def test_h5_files_of_another_kind_are_refused(tmp_path):
    assert refusal(keras3(tmp_path / "o", {"w": A})) == (
        "is an .h5 file, but not one with weights that Keras wrote: give one that it did."
    )
    assert refusal(keras3(tmp_path / "o", {"_layer_checkpoint_dependencies/conv2d/vars/0": A})) == (
        "has a format of Keras 2.13 or older that is not read: save it there as .h5."
    )
    with h5py.File(tmp_path / "own", "w") as file:
        file.attrs["format"] = "minisatm weights 1"
    assert refusal(tmp_path / "own") == "is already a file of minisatm: use it as it is."
    archive = keras_archive(tmp_path / "a", config_of(("Dense", "d", {})), {"layers/conv2d/vars/0": A})
    assert "its config.json names no layer conv2d" in refusal(archive)
    assert "holds two tensors named d/w" in refusal(keras2(tmp_path / "k", {"d": {"w:0": A, "d/w": A, "e/v": B}}))


def test_too_many_tensors_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(checks, "MOST_TENSORS", 1)
    assert refusal(small(tmp_path / "n", "NumPy archive")) == (
        "holds more than 1 tensors: give a file with one network's weights."
    )


def test_a_directory_of_a_foreign_owner_is_no_crash(tmp_path, monkeypatch):
    path = small(tmp_path / "w", "Caffe")

    def refuse(*_args, **_kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(path), "open", refuse)
    assert refusal(path) == "cannot be read (permission denied): change its permissions."
