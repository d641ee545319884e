"""Small weight files of every kind, written by a few lines for each, and what the tests of the readers ask of them."""

import io
import json
import struct
import zipfile
from dataclasses import dataclass

import h5py
import numpy as np
import pytest

from minisatm.errors import InputError
from weights_convert.readers import read

RNG = np.random.default_rng(0)
A = RNG.normal(size=(3, 4)).astype(np.float32)
B = RNG.normal(size=4).astype(np.float32)
# ---- writers: a few lines for each format


@dataclass
class Global:
    module: str
    name: str


@dataclass
class Call:
    function: Global
    arguments: tuple


@dataclass
class Saved:
    """A persistent id: a storage."""

    id: tuple


def opcodes(value):
    """A pickle's operations for a value, as protocol 2 has them."""
    match value:
        case None | True | False:
            return {None: b"N", True: b"\x88", False: b"\x89"}[value]
        case int():
            return b"\x8a\x0a" + value.to_bytes(10, "little", signed=True)
        case str():
            return b"X" + struct.pack("<I", len(value.encode())) + value.encode()
        case tuple():
            return b"(" + b"".join(map(opcodes, value)) + b"t"
        case list():
            return b"](" + b"".join(map(opcodes, value)) + b"e"
        case dict():
            return b"}(" + b"".join(opcodes(k) + opcodes(v) for k, v in value.items()) + b"u"
        case Global():
            return f"c{value.module}\n{value.name}\n".encode()
        case Call():
            return opcodes(value.function) + opcodes(value.arguments) + b"R"
        case Saved():
            return opcodes(value.id) + b"Q"


def pickled(value):
    return b"\x80\x02" + opcodes(value) + b"."


def tensor(key, whole, size, stride, offset=0, kind="Float", view=(None,), module="torch"):
    storage = Saved(("storage", Global(module, kind + "Storage"), key, "cpu", whole, *view))
    hooks = Call(Global("collections", "OrderedDict"), ())
    return Call(Global("torch._utils", "_rebuild_tensor_v2"), (storage, offset, size, stride, False, hooks))


def torch_zip(path, pickle, storages, **more):
    """more: other records of the archive, such as byteorder."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle)
        for name, data in {**{f"data/{k}": v for k, v in storages.items()}, **more}.items():
            archive.writestr(f"archive/{name}", data)
    return path


def torch_legacy(path, pickle, storages):
    """storages: key -> (number of elements, bytes)."""
    head = [
        pickled(0x1950A86A20F9469CFC6C),
        pickled(1001),
        pickled({"little_endian": True}),
        pickle,
        pickled(list(storages)),
    ]
    path.write_bytes(b"".join(head + [struct.pack("<q", count) + data for count, data in storages.values()]))
    return path


def safetensors_file(path, header, data):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def varint(n):
    return bytes([n & 127 | 128]) + varint(n >> 7) if n > 127 else bytes([n])


def field(number, payload):
    """A field of protocol buffers: an int, or bytes with their length."""
    if isinstance(payload, int):
        return varint(number << 3) + varint(payload)
    return varint(number << 3 | 2) + varint(len(payload)) + payload


def blob(array, shape=None, unpacked=False):
    numbers = array.astype("<f4").tobytes()
    if unpacked:
        data = b"".join(varint(5 << 3 | 5) + numbers[i : i + 4] for i in range(0, len(numbers), 4))
    else:
        data = field(5, numbers)
    return data + (field(7, field(1, b"".join(map(varint, array.shape)))) if shape is None else shape)


def caffe_layer(name, *blobs, old=False):
    fields = field(4 if old else 1, name.encode()) + b"".join(field(6 if old else 7, b) for b in blobs)
    return field(2 if old else 100, fields)


def keras2(path, layers, group=None, chunked=False):
    """layers: name -> {name of the weight: array}."""
    with h5py.File(path, "w") as file:
        top = file.create_group(group) if group else file
        top.attrs["keras_version"], top.attrs["backend"] = b"2.2.4", b"tensorflow"
        names = [np.bytes_(name) for name in layers]
        parts = {"layer_names0": names[:1], "layer_names1": names[1:]} if chunked else {"layer_names": names}
        for key, value in parts.items():
            top.attrs[key] = value
        for layer, weights in layers.items():
            inner = top.create_group(layer)
            inner.attrs["weight_names"] = [np.bytes_(name) for name in weights]
            for name, array in weights.items():
                inner[name] = array
    return path


def keras3(path, groups):
    """groups: path in the file -> array."""
    with h5py.File(path, "w") as file:
        for name, array in groups.items():
            file[name] = array
    return path


def config_of(*layers):
    """layers: (class, name, further settings), or a list of them: a model inside."""
    entries = [{"class_name": kind, "config": {"name": name, **more}} for kind, name, more in layers]
    return {"class_name": "Functional", "config": {"name": "model", "layers": entries}}


def keras_archive(path, config, groups, compression=zipfile.ZIP_STORED):
    inner = keras3(path.with_suffix(".inner"), groups).read_bytes()
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("metadata.json", json.dumps({"keras_version": "3.5.0"}))
        archive.writestr("config.json", json.dumps(config))
        archive.writestr("model.weights.h5", inner)
    return path


def npz_of(path, members):
    """members: name -> bytes of a .npy, or an array."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            if not isinstance(data, bytes):
                file = io.BytesIO()
                np.save(file, data)
                data = file.getvalue()
            archive.writestr(name + ".npy", data)
    return path


def small(path, kind):
    """A small whole file of each kind, which test_convert_fuzz.py then damages."""
    if kind.startswith("PyTorch"):
        saved = {"state_dict": {"a": tensor("0", 12, (3, 4), (4, 1)), "b": tensor("1", 4, (4,), (1,))}, "epoch": 3}
        if kind == "PyTorch zip":
            return torch_zip(path, pickled(saved), {"0": A.tobytes(), "1": B.tobytes()}, byteorder=b"little")
        return torch_legacy(path, pickled(saved), {"0": (12, A.tobytes()), "1": (4, B.tobytes())})
    if kind == "safetensors":
        header = {"a": {"dtype": "F32", "shape": [3, 4], "data_offsets": [0, 48]},
                  "b": {"dtype": "F32", "shape": [4], "data_offsets": [48, 64]}}  # fmt: skip
        return safetensors_file(path, header, A.tobytes() + B.tobytes())
    if kind == "Caffe":
        path.write_bytes(field(1, b"net") + caffe_layer("a", blob(A), blob(B)) + caffe_layer("b", blob(A), old=True))
        return path
    if kind == "Keras 2 HDF5":
        return keras2(path, {"conv1": {"conv1/kernel:0": A, "conv1/bias:0": B}, "flat": {}})
    groups = {"layers/conv2d/vars/0": A, "layers/conv2d/vars/1": B}
    if kind == "Keras 3 weights":
        return keras3(path, groups)
    if kind == "Keras 3 archive":
        return keras_archive(path, config_of(("Conv2D", "conv1", {})), groups)
    return npz_of(path, {"a": A, "b": B})


KINDS = ("Keras 2 HDF5", "Keras 3 weights", "Keras 3 archive", "PyTorch zip", "PyTorch legacy", "safetensors", "Caffe",
         "NumPy archive")  # fmt: skip


def same(tensors, expected):
    """The same names in the same order, and the same plain arrays."""
    assert list(tensors) == list(expected)
    for name, array in expected.items():
        assert type(tensors[name]) is np.ndarray and tensors[name].dtype == array.dtype, name
        assert tensors[name].flags.c_contiguous and tensors[name].dtype.isnative
        np.testing.assert_array_equal(tensors[name], array, strict=True)


def refusal(path):
    """The text of the refusal, after the path; it is one sentence that names the file."""
    with pytest.raises(InputError) as caught:
        read(path)
    text = str(caught.value)
    assert text.count(str(path)) == 1 and text.endswith(".") and "\n" not in text and ". " not in text
    return text.replace(f"{path} ", "")
