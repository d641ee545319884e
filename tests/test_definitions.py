"""The definition in a weights file: compared when it is loaded, and checked field by field; files that lie."""

import fcntl
import json
import os
import tracemalloc

import h5py
import numpy as np
import pytest

from minisatm import InputError, Tensor, models
from minisatm.models import files

SMALL = dict(classes=4, width=1 / 64, size=32)
BASE = {"inception_v3": {"size": 75}, "resnet50": {"blocks": (1, 1, 1, 1)}, "resnet20": {"width": 1 / 16}}


def small(name, **changes):
    return models.build(name, **{**SMALL, **BASE.get(name, {}), **changes})


def saved(tmp_path, name, **variant):
    path = tmp_path / "net.h5"
    small(name, **variant).save(path)
    return path


def redefine(path, **fields):
    with h5py.File(path, "a") as file:
        file.attrs["definition"] = json.dumps({**json.loads(file.attrs["definition"]), **fields})


def refusal(function, *args, **settings):
    with pytest.raises(InputError) as problem:
        function(*args, **settings)
    return str(problem.value)


@pytest.mark.parametrize("name, variant", [
    ("vgg16", {"bgr": True}), ("vgg16", {"mean": (0.1, 0.2, 0.3)}), ("vgg16", {"std": (1 / 255,) * 3}),
    ("resnet50", {"stride_in": "1x1"}), ("resnet50", {"eps": 1.001e-5}), ("resnet50", {"pool_padding": 0}),
    ("resnet50", {"stem_padding": "same"}), ("resnet50", {"pool_ceil": True}), ("resnet50", {"mean": (0.5,) * 3}),
    ("inception_v3", {"count_padding": False}), ("resnet20", {"bgr": True}), ("lenet", {"mean": (0.5,) * 3}),
    ("mnist_a", {"std": (0.5,) * 3}),
])  # fmt: skip
def test_load_refuses_a_file_of_another_definition(tmp_path, name, variant):
    ((field, value),) = variant.items()
    for file, ours in ((variant, {}), ({}, variant)):
        path, network = saved(tmp_path, name, **file), small(name, **ours)
        before = {n: a.tobytes() for n, a in network.state().items()}
        message = refusal(network.load, path)
        assert "build the network with weights=file" in message
        line = message.splitlines()[1]
        assert len(message.splitlines()) == 2 and f"another {field} " in line and repr(value) in line
        assert {n: a.tobytes() for n, a in network.state().items()} == before
        assert line in refusal(files.load, network, path, replace_top=True)
        assert line in network.load(path, strict=False).splitlines()
        assert models.build(None, weights=path).definition == small(name, **file).definition


def test_all_fields_that_differ_are_listed(tmp_path):
    path = saved(tmp_path, "resnet50", bgr=True, eps=1e-3, stride_in="1x1")
    assert [line.split()[1] for line in refusal(small("resnet50").load, path).splitlines()[1:]] == [
        "stride_in", "eps", "bgr",
    ]  # fmt: skip


@pytest.mark.parametrize("name, stored, ours", [
    ("vgg16", {"mean": (0.485, 0.456, 0.406)}, {}),  # its default, written out
    ("vgg16", {"mean": (0.1, 0.2, 0.3)}, {"mean": [np.float32(0.1), 0.2, 0.3]}),
    ("resnet50", {"pool_padding": ((1, 1), (1, 1)), "stem_padding": 3}, {}),
    ("resnet50", {"pool_padding": "valid"}, {"pool_padding": 0}),
    ("resnet50", {"momentum": 0.01, "unbiased": False, "zero_gamma": False, "exact": True}, {}),
    ("vgg16", {"dropout": 0.25, "exact": True}, {}),
    ("inception_v3", {"mean": (0.5,) * 3, "eps": 1e-3}, {}),
    ("lenet", {"std": (256 / 255,) * 3}, {}),
])  # fmt: skip
def test_load_takes_what_computes_the_same(tmp_path, name, stored, ours):
    path = saved(tmp_path, name, **stored)
    assert "another" not in small(name, **ours).load(path)


def test_a_field_that_build_is_asked_for_goes_before_the_file(tmp_path):
    path = saved(tmp_path, "resnet20", bgr=True)
    assert models.build(None, weights=path, bgr=False).definition.get("bgr", False) is False


WRONG = [
    ("classes", "8"), ("classes", 2.5), ("classes", [8]), ("classes", True), ("classes", 10**12), ("classes", None),
    ("width", "1"), ("width", -1), ("width", float("nan")), ("width", 1e9), ("width", [[1]]), ("size", 10**9),
    ("size", 32.5), ("size", None), ("channels", 2), ("channels", "3"), ("name", 5), ("name", ["vgg16"]),
    ("mean", 0.5), ("mean", ["a", "b", "c"]), ("mean", [[0.1] * 3] * 3), ("mean", [1e300] * 3),
    ("std", [0, 1, 1]), ("std", [-1, 1, 1]), ("std", [float("inf")] * 3), ("std", {}), ("bgr", "no"), ("bgr", 2),
    ("exact", None), ("eps", -1), ("eps", "small"), ("eps", float("nan")), ("eps", [1e-5]), ("momentum", 7),
    ("stride_in", 1), ("stride_in", ["1x1"]), ("stem", {"a": 1}), ("blocks", 3), ("blocks", [10**9] * 4),
    ("blocks", []), ("blocks", [[3]]), ("first_width", 10**9), ("pool_padding", -1), ("pool_padding", "none"),
    ("pool_padding", [[1, 1, 1]] * 2), ("stem_padding", 10**6), ("conv_bias", 1.0),
]  # fmt: skip


@pytest.mark.parametrize("field, value", WRONG, ids=str)
def test_a_wrong_field_in_a_file_is_named(tmp_path, field, value):
    path = saved(tmp_path, "resnet20")
    redefine(path, **{field: value})
    for function in (lambda: models.build(None, weights=path), lambda: files.definition_of(path)):
        message = refusal(function)
        assert str(path) in message and f"{field}=" in message and "it must be" in message and "\n" not in message
    if field not in ("name", "classes"):
        message = refusal(models.build, "resnet20", **{**SMALL, field: value}) if value is not None else field
        assert field in message


@pytest.mark.parametrize("fields", [
    dict(width=16, size=4096), dict(classes=100_000), dict(blocks=[100] * 8), dict(first_width=1024),
])  # fmt: skip
def test_a_definition_larger_than_the_file_is_refused_at_once(tmp_path, fields):
    path = saved(tmp_path, "resnet20")
    redefine(path, **fields)
    tracemalloc.start()
    message = refusal(models.build, None, weights=path)
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()
    assert "more than" in message and str(path) in message


def test_a_network_that_no_memory_holds_is_refused(monkeypatch):
    monkeypatch.setattr(models.definition, "LARGEST", 10_000)
    message = refusal(models.build, "vgg16", width=1 / 16, size=32)
    assert "more than 10,000 weights: choose a smaller width or size" in message


def test_numpy_numbers_become_python_numbers(tmp_path):
    network = small("resnet50", eps=np.float64(1e-3), momentum=np.float32(0.25), blocks=np.array([1, 1, 1, 1]))
    network.save(tmp_path / "net.h5")
    network(Tensor(np.zeros((2, 32, 32, 3), np.float32)))
    assert network.stem.bn.var.dtype == np.float32 and type(network.definition["eps"]) is float


# Files


def external(group, path):
    group["fc.bias"] = h5py.ExternalLink(str(path.with_name("other.h5")), "w")


def soft(group, path):
    group["fc.bias"] = h5py.SoftLink("/weights/stem.bn.beta")


def virtual(group, path):
    layout = h5py.VirtualLayout((4,), "f4")
    layout[:] = h5py.VirtualSource(str(path.with_name("other.h5")), "w", (4,))
    group.create_virtual_dataset("fc.bias", layout)


def hollow(group, path):
    group.create_dataset("fc.bias", (4,), "f4", chunks=(2,))


def folder(group, path):
    group.create_group("fc.bias")


def nothing(group, path):
    group["fc.bias"] = h5py.Empty("f4")


@pytest.mark.parametrize("put", [external, soft, virtual, hollow, folder, nothing])
def test_an_array_that_is_not_in_the_file_is_refused(tmp_path, put):
    path = saved(tmp_path, "resnet50")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["w"] = np.ones(4, np.float32)
    with h5py.File(path, "a") as file:
        del file["weights/fc.bias"]
        put(file["weights"], path)
    for function in (lambda: small("resnet50").load(path), lambda: models.build(None, weights=path)):
        message = refusal(function)
        assert str(path) in message and "fc.bias" in message and "use a" in message


@pytest.mark.parametrize("name", ["fc.bias", "surplus"])
def test_an_array_larger_than_the_networks_is_not_read(tmp_path, name):
    path = saved(tmp_path, "resnet50")
    with h5py.File(path, "a") as file:
        file["weights"].pop(name, None)
        file["weights"].create_dataset(name, data=np.zeros(6_000_000, np.float32), compression="gzip", chunks=True)
    network = small("resnet50")
    tracemalloc.start()
    assert name in refusal(network.load, path) and name in network.load(path, strict=False)
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()


@pytest.mark.parametrize("way", ["locked", "unreadable", "folder", "pipe", "missing", "another kind"])
def test_a_file_that_cannot_be_read_says_why(tmp_path, way, monkeypatch):
    path = saved(tmp_path, "resnet50")
    says = {"locked": "is locked, another program", "unreadable": "(Permission denied): check its permissions",
            "folder": "is a folder", "pipe": "is no ordinary file", "missing": "there is no file",
            "another kind": "is not a whole .h5 file"}[way]  # fmt: skip
    if way == "locked":
        with open(path, "rb") as other:
            fcntl.flock(other, fcntl.LOCK_EX)
            message = refusal(files.definition_of, path)
    else:
        path.write_bytes(b"text")
        if way == "unreadable":  # root may read everything, so the system's answer is imitated

            def denied(*args, **settings):
                raise PermissionError(13, "Permission denied", str(path))

            monkeypatch.setattr("builtins.open", denied)
        elif way != "another kind":
            path.unlink()
            make = {"folder": path.mkdir, "pipe": lambda: os.mkfifo(path), "missing": lambda: None}
            make[way]()
        message = refusal(files.definition_of, path)
    assert says in message and str(path) in message and "damaged" not in message


# Images


@pytest.mark.parametrize("dtype, says", [
    (np.uint8, "the images are uint8, and a network takes pixels in [0, 1]: give images.astype(np.float32) / 255."),
    (np.uint16, "the images are uint16, and a network takes pixels in [0, 1]: give images.astype(np.float32) / 65535."),
    (np.int64, "the images are int64, and a network takes pixels in [0, 1]: give images.astype(np.float32) / 255."),
    (np.bool_, "the images are bool: give images.astype(np.float32)."),
    (np.float16, "the images are float16, in which small gradients become 0: give images.astype(np.float32)."),
    (np.float64, "the images are float64 and the network's weights are float32: give images.astype(np.float32)."),
])  # fmt: skip
def test_images_of_another_dtype(dtype, says):
    images = np.ones((1, 32, 32, 3), dtype)
    network = small("resnet20")
    assert refusal(network, Tensor(images)) == says
    assert refusal(small("resnet20").astype, np.float16).startswith("unknown dtype 'float16': choose float32, float64")
    single = Tensor(images.astype(np.float32))
    assert "images.astype(np.float64)." in refusal(network.astype(np.float64), single)
    assert "give Tensor(images)" in refusal(network, images)
