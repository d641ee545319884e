"""Weights files: what goes in comes out, what does not fit is named, and a damaged file never gets half-way in."""

import json

import h5py
import numpy as np
import pytest

from minisatm import InputError, Tensor, models
from minisatm.models import files as weights

SMALL = {
    "vgg16": {"classes": 5, "width": 1 / 64, "size": 32},
    "resnet20": {"classes": 5, "width": 1 / 4, "size": 16},
    "resnet50": {"classes": 5, "width": 1 / 32, "size": 32},
}
VARIANTS = {
    "vgg16": {"dropout": 0.25, "bgr": True, "mean": (0.4, 0.5, 0.6), "std": (1 / 255,) * 3},
    "resnet20": {"eps": 1e-3, "momentum": 0.01, "unbiased": False, "bgr": True},
    "resnet50": {"eps": 1.001e-5, "stride_in": "1x1", "conv_bias": True, "pool_padding": 0, "pool_ceil": True},
}


def small(name, rng=0, **changes):
    return models.build(name, **{**SMALL[name], "rng": rng, **changes})


def shaken(network, seed=3):
    """Every weight and buffer random, so that a mix-up of two of them shows; variances stay positive."""
    rng = np.random.default_rng(seed)

    def draw(name, shape):
        if name.endswith((".var", ".gamma")):
            return rng.uniform(0.5, 1.5, shape)
        return rng.standard_normal(shape) * np.sqrt(2 / max(1, np.prod(shape[:-1])))

    network.set_state({n: draw(n, a.shape).astype(a.dtype) for n, a in network.state().items()})
    return network


def bits(network):
    return {n: a.tobytes() for n, a in network.state().items()}


@pytest.fixture
def saved(tmp_path):
    """A ResNet20 and the file it was saved to."""
    network = shaken(small("resnet20"))
    network.save(tmp_path / "net.h5")
    return network, tmp_path / "net.h5"


def change(path, edit):
    with h5py.File(path, "a") as file:
        edit(file)


def refusal(network, path, **options):
    """The message of the refusal; the network must be what it was."""
    before = bits(network)
    with pytest.raises(InputError) as problem:
        weights.load(network, path, **options)
    assert bits(network) == before
    return str(problem.value)


# There and back


@pytest.mark.parametrize("name", SMALL)
def test_round_trip(name, tmp_path):
    network = shaken(small(name))
    network.save(tmp_path / "deep" / "net.h5")
    other = small(name, rng=1)
    report = other.load(tmp_path / "deep" / "net.h5")
    assert bits(other) == bits(network)
    count = len(network.state())
    assert report == f"{tmp_path / 'deep' / 'net.h5'}: {count} of {count} arrays loaded"
    assert all(t.dtype == np.float32 and t.requires_grad for t in other.parameters().values())


@pytest.mark.parametrize("name", SMALL)
def test_build_obeys_the_definition_in_the_file(name, tmp_path):
    network = shaken(small(name, **VARIANTS[name])).eval()
    network.save(tmp_path / "net.h5")
    again = models.build(name, **SMALL[name], weights=tmp_path / "net.h5").eval()
    assert json.dumps(again.definition) == json.dumps(network.definition)
    x = np.random.default_rng(0).random((2, SMALL[name]["size"], SMALL[name]["size"], 3), np.float32)
    assert again(Tensor(x))[0].data.tobytes() == network(Tensor(x))[0].data.tobytes()
    plain = shaken(small(name, **{k: v for k, v in VARIANTS[name].items() if k == "conv_bias"})).eval()
    assert not np.array_equal(plain(Tensor(x))[0].data, network(Tensor(x))[0].data)


def test_what_is_asked_for_goes_before_the_file(tmp_path):
    small("vgg16", dropout=0.25).save(tmp_path / "net.h5")
    assert models.build("vgg16", **SMALL["vgg16"], weights=tmp_path / "net.h5").dropout6.rate == 0.25
    assert models.build("vgg16", **SMALL["vgg16"], weights=tmp_path / "net.h5", dropout=0.0).dropout6.rate == 0.0


def test_variant_of_leaves_the_shape_out(tmp_path):
    small("resnet20", eps=1e-3).save(tmp_path / "net.h5")
    assert weights.variant_of(tmp_path / "net.h5", "resnet20") == {"eps": 1e-3}


def test_loading_copies_and_counts_as_a_new_version(saved):
    network, path = saved
    other = small("resnet20")
    versions = {n: t.version for n, t in other.parameters().items()}
    other.load(path)
    assert all(t.version > versions[n] for n, t in other.parameters().items())


# What does not fit


def test_strict_names_all_that_does_not_fit(saved):
    _, path = saved

    def edit(file):
        w = file["weights"]
        del w["stem.conv.weight"], w["stage2.0.conv1.bn.var"]
        w["surplus.weight"] = np.zeros((2, 3), np.float32)
        del w["stage1.0.conv1.bn.gamma"]
        w["stage1.0.conv1.bn.gamma"] = np.zeros(7, np.float32)

    change(path, edit)
    message = refusal(small("resnet20"), path)
    assert message.startswith(f"{path} does not fit resnet20 (4 names or shapes differ): build the network with the ")
    assert message.splitlines()[1:] == [
        "  missing in the file   stem.conv.weight (3, 3, 3, 4)",
        "  missing in the file   stage2.0.conv1.bn.var (8,)",
        "  not in the network    surplus.weight (2, 3)",
        "  another shape         stage1.0.conv1.bn.gamma: (7,) in the file, (4,) in the network",
    ]


def test_a_long_list_is_cut(saved):
    message = refusal(small("resnet20", width=1 / 2), saved[1])
    assert len(message.splitlines()) == 22 and message.splitlines()[-1].startswith("  ... and ")
    differ = int(message.split("(")[1].split()[0])
    assert message.splitlines()[-1] == f"  ... and {differ - 20} more"


def test_not_strict_loads_what_fits(saved):
    network, path = saved

    def edit(file):
        del file["weights/stem.conv.weight"]
        del file["weights/fc.bias"]
        file["weights/fc.bias"] = np.zeros(9, np.float32)

    change(path, edit)
    other = small("resnet20", rng=1)
    start = bits(other)
    report = weights.load(other, path, strict=False)
    count = len(start)
    assert report.splitlines() == [
        f"{path}: {count - 2} of {count} arrays loaded",
        "  missing in the file   stem.conv.weight (3, 3, 3, 4)",
        "  another shape         fc.bias: (9,) in the file, (5,) in the network",
    ]
    expected = bits(network) | {n: start[n] for n in ("stem.conv.weight", "fc.bias")}
    assert bits(other) == expected


def test_replace_top_keeps_the_random_last_layer(saved):
    network, path = saved
    other = small("resnet20", rng=1, classes=8)
    start = bits(other)
    report = weights.load(other, path, replace_top=True)
    top = {"fc.weight", "fc.bias"}
    assert bits(other) == {n: start[n] if n in top else b for n, b in bits(network).items()}
    assert report.splitlines()[-1].endswith("fc.weight, fc.bias: the file has another number of classes")
    assert "does not fit" in refusal(small("resnet20", classes=8), path)


def test_replace_top_with_the_same_classes_replaces_nothing(saved):
    network, path = saved
    other = small("resnet20", rng=1)
    weights.load(other, path, replace_top=True)
    assert bits(other) == bits(network)


def test_replace_top_is_strict_about_the_rest(saved):
    _, path = saved
    change(path, lambda file: file["weights"].pop("stem.conv.weight"))
    message = refusal(small("resnet20", classes=8), path, replace_top=True)
    assert "(1 names or shapes differ)" in message and "missing in the file   stem.conv.weight" in message


def test_weights_of_another_network(saved):
    _, path = saved
    message = "holds weights of resnet20, not of vgg16: name that network instead."
    with pytest.raises(InputError, match=message):
        models.build("vgg16", **SMALL["vgg16"], weights=path)
    assert "does not fit vgg16" in refusal(small("vgg16"), path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite(saved, value):
    _, path = saved

    def edit(file):
        file["weights/fc.bias"][2] = value

    change(path, edit)
    for options in ({}, {"strict": False}, {"replace_top": True}):
        message = refusal(small("resnet20"), path, **options)
        assert message == f"{path} holds NaN or infinite weights in fc.bias (1 arrays): use another file."


# Not the file it should be


def test_missing_file(tmp_path):
    path = tmp_path / "none.h5"
    assert refusal(small("resnet20"), path) == f"there is no file {path}: check the path."
    assert refusal(small("resnet20"), tmp_path) == f"{tmp_path} is a folder: name an .h5 file."
    with pytest.raises(InputError, match="there is no file"):
        models.build("resnet20", **SMALL["resnet20"], weights=path)


@pytest.mark.parametrize(
    "content", [b"", b"these are no weights\n", b"\x89HDF\r\n\x1a\n", b"\x89HDF\r\n\x1a\n" + bytes(500)]
)
def test_a_file_of_another_kind(tmp_path, content):
    path = tmp_path / "net.h5"
    path.write_bytes(content)
    message = f"{path} is not a whole .h5 file (cut short, or of another kind): copy or make it again."
    assert refusal(small("resnet20"), path) == message


def test_an_h5_file_of_another_program(tmp_path):
    path = tmp_path / "other.h5"
    with h5py.File(path, "w") as file:
        file["model_weights/dense/kernel"] = np.zeros(3)
    assert "is not a minisatm weights file: convert it first" in refusal(small("resnet20"), path)
    for name in (None, "resnet20"):
        with pytest.raises(InputError, match="other.h5 is not a minisatm weights file: convert it first"):
            models.build(name, weights=path)


def test_a_group_where_an_array_should_be(saved):
    _, path = saved

    def edit(file):
        del file["weights/fc.bias"]
        file["weights/fc.bias/inner"] = np.zeros(5, np.float32)

    change(path, edit)
    assert str(path) in refusal(small("resnet20"), path)


@pytest.mark.parametrize("value", ["{cut", "[1, 2]"])
def test_a_damaged_definition(saved, value):
    _, path = saved
    change(path, lambda file: file.attrs.__setitem__("definition", value))
    with pytest.raises(InputError) as problem:
        models.build("resnet20", **SMALL["resnet20"], weights=path)
    assert str(path) in str(problem.value)


def test_text_where_numbers_should_be(saved):
    _, path = saved

    def edit(file):
        del file["weights/fc.bias"]
        file["weights/fc.bias"] = "five numbers"

    change(path, edit)
    assert str(path) in refusal(small("resnet20"), path)


def test_every_cut_of_a_file_is_refused(tmp_path):
    """Cut anywhere: one InputError that names the file, and the network as it was; never an error of another kind."""
    network = small("resnet20", width=1 / 16, size=8)
    network.save(tmp_path / "whole.h5")
    content, path = (tmp_path / "whole.h5").read_bytes(), tmp_path / "cut.h5"
    other = small("resnet20", rng=1, width=1 / 16, size=8)
    lengths = {*range(0, 120), *range(0, len(content), 997), *range(len(content) - 40, len(content))}
    for length in sorted(lengths):
        path.write_bytes(content[:length])
        assert str(path) in refusal(other, path), length
    path.write_bytes(content)
    other.load(path)
    assert bits(other) == bits(network)


def test_holes_in_a_file_give_an_input_error_or_other_numbers(tmp_path):
    """A block of zeros, as a broken disk leaves it: refused, or the numbers in it are zeros; never another error."""
    network = small("resnet20", width=1 / 16, size=8)
    network.save(tmp_path / "whole.h5")
    content, path = (tmp_path / "whole.h5").read_bytes(), tmp_path / "hole.h5"
    refused = 0
    for start in range(0, len(content), 2048):
        path.write_bytes(content[:start] + bytes(512) + content[start + 512 :])
        try:
            weights.load(small("resnet20", rng=1, width=1 / 16, size=8), path)
        except InputError as problem:
            refused += str(path) in str(problem)
    assert refused > 0


# Writing


def test_a_failing_write_leaves_the_old_file(saved, monkeypatch):
    network, path = saved
    content = path.read_bytes()

    def fill(file):
        weights.write_arrays(file, {"a": np.zeros(1000)})
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space left"):
        weights.write_atomically(path, fill)
    assert path.read_bytes() == content
    assert [p.name for p in path.parent.iterdir()] == ["net.h5"]

    monkeypatch.setattr(weights.os, "replace", lambda *a: (_ for _ in ()).throw(PermissionError("no")))
    with pytest.raises(PermissionError):
        shaken(network, seed=9).save(path)
    assert path.read_bytes() == content
    assert [p.name for p in path.parent.iterdir()] == ["net.h5"]


def test_saving_replaces_the_old_file(saved):
    network, path = saved
    shaken(network, seed=9).save(path)
    other = small("resnet20")
    other.load(path)
    assert bits(other) == bits(network)
    assert [p.name for p in path.parent.iterdir()] == ["net.h5"]
