"""Files that ask for work out of proportion, and files that cannot be read for a reason outside them."""

import errno
import fcntl
import io
import os
import socket
import struct
import time

import h5py
import numpy as np
import pytest
from weight_files import (
    A,
    B,
    Call,
    Global,
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
    same,
    small,
    tensor,
    torch_legacy,
    torch_zip,
)

from weights_convert import __main__ as command
from weights_convert.maps import keras_names
from weights_convert.readers import checks, keras, read

SECONDS = 2.0  # of this process, usually far less; each file below took minutes, or gigabytes, or would take for ever


def refused_soon(path):
    began = time.process_time()
    text = refusal(path)
    assert time.process_time() - began < SECONDS, text
    return text


@pytest.fixture
def few_steps(monkeypatch):
    """The limit itself lets half a second to three seconds pass."""
    monkeypatch.setattr(checks, "MOST_STEPS", 50_000)


def test_the_limit_is_above_what_files_need():
    """The largest is a VGG16 for Caffe with unpacked numbers: 138 million, 1024 a step."""
    assert 138_357_544 / 1024 * 2 < checks.MOST_STEPS <= 2**19


# --- work ------------------------------------------------------------------------------------------------------------

ORDERED, SIZE = b"ccollections\nOrderedDict\nq\x01", b"ctorch\nSize\nq\x01"
PAIRS = opcodes([[f"k{i}", i] for i in range(1000)]) + b"q\x02"
STEPS = "needs more than 50,000 steps to read: it is damaged or made to do harm"
LONG = b"\x8b" + struct.pack("<i", 100_001) + b"\xff" * 100_000 + b"\0"  # a number of 240,000 digits


def many(start, again, count=1000):
    """A pickle's list that begins with `start`, which fills the memo, and goes on with `again`, over and over."""
    return b"\x80\x04](" + start + again * count + b"e."


PICKLES = {
    "OrderedDict(list)": (many(ORDERED + PAIRS, b"h\x01h\x02\x85R"), STEPS),
    "Size(*tuple)": (many(SIZE + opcodes(tuple(range(1000))) + b"q\x02", b"h\x01h\x02R"), STEPS),
    "NEWOBJ": (many(SIZE + opcodes(tuple(range(1000))) + b"q\x02", b"h\x01h\x02\x81"), STEPS),
    "a list as argument": (many(SIZE + opcodes(list(range(1000))) + b"q\x02", b"h\x01h\x02\x85R"), STEPS),
    "operations": (many(b"", b"N", 60_000), STEPS),
    "a long key": (many(b"}q\x01" + LONG + b"q\x02", b"h\x01h\x02Ns"), "a number of many digits as key"),
    "a tuple of tuples as name": (many(b")", b"q\x00h\x00h\x00\x86", 200)[:-2] + b"q\x01h\x01\x93e.", "no text"),
    "a long name": (many(opcodes("a" * 60_000) + b"q\x01", b"h\x01h\x01\x93", 1), STEPS),
    "a long list as id": (many(opcodes(("x", *range(1000))) + b"q\x01", b"h\x01Q"), "unpack"),
}


@pytest.mark.parametrize("case", PICKLES)
@pytest.mark.usefixtures("few_steps")
def test_a_pickle_has_a_number_of_steps(tmp_path, case):
    pickle, text = PICKLES[case]
    for path in (torch_zip(tmp_path / "z", pickle, {}), torch_legacy(tmp_path / "l", pickle, {})):
        assert text in refused_soon(path)


def test_dicts_that_share_dicts_are_walked_once(tmp_path):
    shared = b"}X\x01\0\0\0wNs" + b"q\x01}(X\x01\0\0\0ah\x01X\x01\0\0\0bh\x01u" * 60
    assert "holds no weights" in refused_soon(torch_zip(tmp_path / "z", b"\x80\x02" + shared + b".", {}))


def test_a_checkpoint_with_a_log_and_an_optimiser_is_no_harm(tmp_path):
    one = tensor("0", 12, (3, 4), (4, 1))
    state = {i: {"exp_avg": one, "exp_avg_sq": one, "step": i} for i in range(500)}
    saved = {"state_dict": {f"w{i}": one for i in range(600)}, "losses": list(range(100_000)), "optimizer": state}
    tensors = read(torch_zip(tmp_path / "z", pickled(saved), {"0": A.tobytes()})).tensors
    assert len(tensors) == 600


HEADERS = {
    "names": {f"t{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(30_000)},
    "a long header": {"w": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0], "x": " " * 2**22}},
    "nested": b"{" + b'"a":{' * 100_000,
    "lists": b'{"a":[' + b"[]," * 300_000 + b"[]]}",
}


@pytest.mark.parametrize("case", HEADERS)
def test_safetensors_headers_out_of_proportion(tmp_path, case):
    text = refused_soon(safetensors_file(tmp_path / "s", HEADERS[case], b""))
    assert {"names": "holds more than 20000 tensors", "a long header": "has a header of 4,19"}.get(case, "") in text


def test_archives_with_many_members(tmp_path, monkeypatch):
    monkeypatch.setattr(checks, "MOST_MEMBERS", 2000)
    file = io.BytesIO()
    np.save(file, B)
    path = npz_of(tmp_path / "n", {f"t{i}": file.getvalue() for i in range(2001)})
    assert refused_soon(path) == "holds more than 2000 members: give a file with one network's weights."


def weights_of(payload):
    return field(100, field(1, b"w") + field(7, payload))


CAFFE = {
    "tiny fields": field(1, b"net") + b"\x10\x01" * 60_000,
    "tiny layers": field(100, b"") * 60_000,
    "tiny shapes": weights_of(field(7, b"") * 60_000),
    "tiny blobs": field(100, field(1, b"w") + field(7, b"") * 60_000),
    "dimensions": weights_of(field(7, field(1, b"\x01" * 2_000_000))),
    "two kinds of number in turn": weights_of((b"\x2d" + bytes(4) + b"\x41" + bytes(8)) * 30_000),
    "a long name": caffe_layer("a" * 24_000, blob(A)),
}


@pytest.mark.parametrize("case", CAFFE)
@pytest.mark.usefixtures("few_steps")
def test_caffemodels_out_of_proportion(tmp_path, case):
    (tmp_path / "c").write_bytes(CAFFE[case])
    text = refused_soon(tmp_path / "c")
    assert {"dimensions": "dimensions", "a long name": "a name of 24,000"}.get(case, STEPS) in text


# --- names -----------------------------------------------------------------------------------------------------------

NAMES = ("a" * 24_000, "a_W_" * 6_000, "a/" * 12_000 + "a", "a/a_W_1/" * 3_000 + "a")


@pytest.mark.parametrize("name", NAMES, ids=lambda name: name[:8])
def test_long_names_are_refused_soon(tmp_path, name):
    files = [
        keras2(tmp_path / "k", {"conv": {name: A}}),
        torch_zip(tmp_path / "t", pickled({name: tensor("0", 12, (3, 4), (4, 1))}), {"0": A.tobytes()}),
        torch_zip(tmp_path / "d", pickled({name: {"w": tensor("0", 12, (3, 4), (4, 1))}}), {"0": A.tobytes()}),
        npz_of(tmp_path / "n", {name: A}),
        safetensors_file(tmp_path / "s", {name: {"dtype": "F32", "shape": [12], "data_offsets": [0, 48]}}, A.tobytes()),
    ]
    if "/" not in name:
        files += [keras2(tmp_path / "l", {name: {"w": A}}), keras3(tmp_path / "3", {f"layers/{name}/vars/0": A})]
    for path in files:
        text = refused_soon(path)
        assert "holds a name of 2" in text and "characters (" in text and text.endswith("from its publisher.")


@pytest.mark.parametrize("name", [*NAMES, "conv2d_" + "9" * 24_000 + "/kernel", "/".join("conv2d_1" * 3_000)])
def test_a_long_name_alone_takes_no_time(name):
    began = time.process_time()
    keras_names._counted_from_zero({keras_names._of_keras_1(name): A, "conv2d_3/kernel": A})
    assert time.process_time() - began < 0.1


@pytest.mark.parametrize("name, expected", [
    ("block1_conv1/block1_conv1_W_1", "block1_conv1/kernel"), ("a/a_b", "a/bias"),
    ("bn/bn_running_std_12", "bn/moving_variance"),
    ("bn/bn_running_mean", "bn/moving_mean"), ("bn/x/bn_gamma_1", "bn/gamma"), ("a_1/a_1_W", "a_1/kernel"),
    ("a/b_W", "a/b_W"), ("a/kernel", "a/kernel"), ("W", "W"), ("a/a_W_x", "a/a_W_x"),
])  # fmt: skip
def test_the_names_of_keras_1(name, expected):
    assert keras_names._of_keras_1(name) == expected


# --- groups ----------------------------------------------------------------------------------------------------------


def of_itself(group):
    group["a"] = group
    group.attrs["weight_names"], group["w"] = [b"w"], A


def test_groups_that_hold_themselves_have_an_end(tmp_path):
    with h5py.File(tmp_path / "k", "w") as file:
        of_itself(file.create_group("a"))
        file.attrs["layer_names"] = ["/".join(["a"] * i).encode() for i in range(1, 200)]
    assert "33 groups in each other" in refused_soon(tmp_path / "k")
    for inner in ("layers", "vars", "x"):
        with h5py.File(tmp_path / "3", "w") as file:
            group = file.create_group("layers/d")
            group[inner] = file["layers"]
            group["more"] = group
        assert "something in place of a group, or a group twice" in refused_soon(tmp_path / "3")


def test_one_group_under_many_names(tmp_path, monkeypatch):
    monkeypatch.setattr(keras, "MOST_TENSORS", 2000)
    with h5py.File(tmp_path / "k", "w") as file:
        group = file.create_group("l")
        for i in range(50):
            group[f"w{i}"] = np.zeros(0, "f4")
            file[f"l{i}"] = group
        group.attrs["weight_names"] = [f"w{i}".encode() for i in range(50)]
        file.attrs["layer_names"] = [f"l{i}".encode() for i in range(50)]
    assert "holds more than 2000 names" in refused_soon(tmp_path / "k")
    keras2(tmp_path / "t", {"d": {"w:0": A}})
    with h5py.File(tmp_path / "t", "a") as file:
        file.attrs["layer_names"] = [b"d"] * 3000
    assert "two layers with one name" in refused_soon(tmp_path / "t")


def test_a_long_list_of_weights_in_a_layer_is_read_soon(tmp_path):
    weights = {f"d/x{i:03}/w:0": B[:1] for i in range(800)}
    began = time.process_time()
    assert len(read(keras2(tmp_path / "k", {"d": weights})).tensors) == 800
    config = config_of(*[("Dense", f"d{i}", {}) for i in range(3000)])
    groups = {f"layers/dense_{i}/vars/0": B for i in range(1, 300)}
    assert len(read(keras_archive(tmp_path / "a", config, groups)).tensors) == 299
    assert time.process_time() - began < SECONDS


# --- what is no file, or cannot be read ------------------------------------------------------------------------------


def test_a_path_that_is_no_file_is_called_what_it_is(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
    (tmp_path / "file").write_bytes(b"x")
    save = "save the weights in a file first."
    assert refusal(tmp_path / "fifo") == f"is a named pipe, not a file: {save}"
    assert refusal(tmp_path / "socket") == f"is a socket, not a file: {save}"
    assert refusal(tmp_path / "link") == "is a symbolic link to nothing: give the file itself."
    assert "its symbolic links form a circle" in refusal(tmp_path / "circle")
    assert refusal(tmp_path) == "is a directory: give the weight file in it."
    assert "is a device, not a file" in refusal("/dev/null")
    for missing in (tmp_path / "none", tmp_path / "file" / "inside"):
        assert refusal(missing).startswith("there is no file")
    assert refusal(tmp_path / ("a" * 300)) == "cannot be read (its name is too long): give it a shorter one."


@pytest.mark.parametrize("kind", ["Keras 2 HDF5", "Keras 3 weights"])
def test_a_locked_h5_is_called_locked(tmp_path, kind):
    path = small(tmp_path / "f", kind)
    with path.open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        expected = "cannot be read (another program has locked it): close it there, then try again."
        assert refusal(path) == expected
    assert len(read(path).tensors) == 2


def test_an_h5_that_is_being_written_is_called_so(tmp_path):
    with h5py.File(tmp_path / "g", "w", libver="latest") as file:
        file["w"] = A
        file.swmr_mode = True
        (tmp_path / "copy").write_bytes((tmp_path / "g").read_bytes())
    assert "another program writes to it, or was ended in the middle" in refusal(tmp_path / "copy")


@pytest.mark.parametrize("number, words", [
    (errno.EACCES, "permission denied): change its permissions."), (errno.EPERM, "permission denied"),
    (errno.EIO, "the disk reports an error"), (errno.ESTALE, "the network drive has lost it"),
    (errno.EAGAIN, "another program has locked it"), (errno.ENOLCK, "its file system has no locks"),
])  # fmt: skip
def test_the_systems_reasons_are_not_called_damage(tmp_path, monkeypatch, number, words):
    path = small(tmp_path / "f", "Keras 2 HDF5")

    def refuse(*_args, **_kwargs):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(h5py, "File", refuse)
        assert refusal(path).startswith(f"cannot be read ({words}")
    monkeypatch.setattr(type(path), "open", refuse)
    assert refusal(path).startswith(f"cannot be read ({words}")


def test_the_command_reports_a_locked_file(tmp_path, capsys):
    path = small(tmp_path / "f", "Keras 2 HDF5")
    with path.open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert command.main([str(path), str(tmp_path / "o.h5"), "--model", "vgg16"]) == 2
    err = capsys.readouterr().err
    assert "another program has locked it" in err and "Traceback" not in err and not (tmp_path / "o.h5").exists()


# --- byte order marks ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("text", ['name: "LeNet"', '# a comment\n\n  name: "LeNet"', "layer {\n", 'input: "data"\n',
                                  "layers {", 'net: "train.prototxt"', "#" * 600])  # fmt: skip
def test_a_prototxt_is_known_with_a_byte_order_mark(tmp_path, encoding, text):
    (tmp_path / "p").write_bytes(text.encode(encoding))
    known = "is the definition of a network for Caffe, without weights: give the .caffemodel."
    assert refusal(tmp_path / "p") == known or text.startswith("##")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_other_texts_are_known_with_a_byte_order_mark(tmp_path, encoding):
    (tmp_path / "p").write_bytes("version https://git-lfs.github.com/spec/v1\n".encode(encoding))
    assert refusal(tmp_path / "p").startswith("is a Git LFS pointer of ")
    (tmp_path / "p").write_bytes("<!DOCTYPE html><html>".encode(encoding))
    assert refusal(tmp_path / "p").startswith("is a web page, ")


def test_a_keras_config_with_a_byte_order_mark(tmp_path, monkeypatch):
    import json

    dumps = json.dumps
    monkeypatch.setattr(json, "dumps", lambda value: "\ufeff" + dumps(value))
    path = keras_archive(tmp_path / "k", config_of(("Dense", "d", {})), {"layers/dense/vars/0": A})
    same(read(path).tensors, {"d/kernel": A})


# --- tensors of PyTorch ----------------------------------------------------------------------------------------------

DATA = np.arange(1, 13, dtype="f4")


def flagged(flags, kind="Float", whole=12, size=(3, 2), stride=(4, 2), offset=1):
    call = tensor("0", whole, size, stride, offset=offset, kind=kind)
    return Call(call.function, (*call.arguments, flags))


@pytest.mark.parametrize("writer", ["zip", "legacy"])
def test_the_neg_flag_changes_the_sign(tmp_path, writer):
    part = DATA.reshape(3, 4)[:, 1::2]

    def holds(saved, expected, data=DATA):
        if writer == "zip":
            path = torch_zip(tmp_path / "z", pickled({"w": saved}), {"0": data.tobytes()})
        else:
            path = torch_legacy(tmp_path / "z", pickled({"w": saved}), {"0": (data.size, data.tobytes())})
        same(read(path).tensors, {"w": expected})

    holds(flagged({"neg": True}), -part)
    holds(flagged({"neg": True, "conj": False}), -part)
    holds(flagged({"neg": False}), part)
    holds(flagged({}), part)
    holds(flagged(None), part)
    holds(flagged({"neg": True}, "Half"), -part, DATA.astype("f2"))
    holds(flagged({"neg": True}, "BFloat16"), -part, (DATA.view("u4") >> 16).astype("u2"))
    holds(flagged({"neg": True}, "Long"), -part.astype("i8"), DATA.astype("i8"))
    parameter = Call(Global("torch._utils", "_rebuild_parameter"), (flagged({"neg": True}), True, {}))
    holds(parameter, -part)
    holds(tensor("0", 12, (3, 2), (1, 1)), np.array([[1, 2], [2, 3], [3, 4]], "f4"))  # they overlap
    holds(tensor("0", 12, (2, 3), (0, 1)), np.array([[1, 2, 3], [1, 2, 3]], "f4"))
    plain = tensor("0", 12, (3, 2), (4, 2), offset=1)
    for kind in ("Tensor", "nn.parameter.Parameter", "nn.parameter.Buffer"):
        module, _, name = f"torch.{kind}".rpartition(".")
        arguments = (plain.function, Global(module, name), plain.arguments, {"note": 1})
        holds(Call(Global("torch._tensor", "_rebuild_from_type_v2"), arguments), part)


REFUSED = {
    "conj": (flagged({"conj": True}), "a tensor with flags other than neg"),
    "an unknown flag": (flagged({"neg": True, "backend": "x"}), "a tensor with flags other than neg"),
    "flags of another type": (flagged("neg"), "a tensor with flags other than neg"),
    "complex": (flagged({}, "ComplexFloat"), "holds complex numbers, which is not read: load it in PyTorch"),
    "quantised": (flagged({}, "QInt8"), "holds a quantised tensor, which is not read"),
    "negative strides": (tensor("0", 12, (3,), (-1,), offset=5), "negative or too many dimensions"),
}
for name, words in {"sparse_tensor": "a sparse tensor", "qtensor": "a quantised tensor", "nested_tensor": "a nested",
                    "tensor_v3": "numbers of a type such as float8", "wrapper_subclass": "a tensor of a class",
                    "meta_tensor_no_storage": "a tensor of the meta device"}.items():  # fmt: skip
    REFUSED[name] = (Call(Global("torch._utils", f"_rebuild_{name}"), ()), f"holds {words}")
REFUSED["DTensor"] = (Call(Global("torch.distributed.tensor", "DTensor"), ()), "holds a DTensor, which is spread")
REFUSED["a class"] = (
    Call(Global("torch._tensor", "_rebuild_from_type_v2"),
         (Global("torch._utils", "_rebuild_tensor_v2"), Global("torch", "Size"), (), {})),
    "a tensor of an unknown class",
)  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_tensors_that_are_not_plain_are_refused(tmp_path, case):
    saved, text = REFUSED[case]
    assert text in refusal(torch_zip(tmp_path / "z", pickled({"w": saved}), {"0": DATA.tobytes()}))
