"""The names of checkpoints: prefixes of wrappers in every format, several sets of weights in a file, Caffe's VGG16s."""

from pathlib import Path

import numpy as np
import pytest
import test_convert
from test_convert import as_published, map_of, published, thin
from weight_files import keras2, pickled, safetensors_file, tensor, torch_legacy, torch_zip

from minisatm import models
from minisatm.errors import InputError
from weights_convert import __main__ as command
from weights_convert import convert as converting
from weights_convert.maps import caffe

M = map_of("pytorch_resnet_cifar10", "resnet20")
NETWORK = thin(M)
OURS = as_published(M, NETWORK)
OTHERS = {name: array + 1 for name, array in OURS.items()}
VGG = map_of("keras.applications", "vgg16")


def as_torch(path, saved, writer=torch_zip):
    """A checkpoint of nested dicts of arrays, as torch.save writes it."""
    data = {}

    def described(value):
        if isinstance(value, dict):
            return {key: described(inner) for key, inner in value.items()}
        if not isinstance(value, np.ndarray):
            return value
        strides = tuple(step // value.itemsize for step in value.strides)
        data[str(len(data))] = value
        return tensor(str(len(data) - 1), value.size, value.shape, strides)

    pickle = pickled(described(saved))
    zipped = writer is torch_zip
    return writer(path, pickle, {k: a.tobytes() if zipped else (a.size, a.tobytes()) for k, a in data.items()})


def as_safetensors(path, tensors):
    header, data = {}, b""
    for name, a in tensors.items():
        header[name] = {"dtype": "F32", "shape": a.shape, "data_offsets": [len(data), len(data) + a.nbytes]}
        data += a.tobytes()
    return safetensors_file(path, header, data)


def as_npz(path, tensors):
    np.savez(path.with_suffix(".npz"), **tensors)
    return path.with_suffix(".npz")


def converted(tmp_path, path, m=M, **options):
    """Our weights by name, and the report."""
    lines = converting.convert(path, tmp_path / "o.h5", model=m.model, width=test_convert.WIDTH, **options)
    state = models.build(None, weights=str(tmp_path / "o.h5")).state()
    (tmp_path / "o.h5").unlink()
    return state, lines


def is_ours(state, network=NETWORK):
    return {n: a.tobytes() for n, a in state.items()} == {n: a.tobytes() for n, a in network.state().items()}


def with_prefix(prefix, tensors=OURS):
    return {prefix + name: array for name, array in tensors.items()}


PREFIXES = ("module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "model.", "module.module.", "net.",
            "module.model.", "backbone.", "ema.", "model.backbone._orig_mod.", "_fsdp_wrapped_module.", "x/y/",
            "any words.")  # fmt: skip


@pytest.mark.parametrize("write", [as_torch, as_safetensors, as_npz])
def test_a_prefix_of_all_names_is_removed_and_printed(tmp_path, write):
    for prefix in PREFIXES:
        state, lines = converted(tmp_path, write(tmp_path / "f", with_prefix(prefix)))
        assert is_ours(state), prefix
        words = prefix.replace("_orig_mod.", "").replace("_fsdp_wrapped_module.", "")
        said = [line.split('"')[1] for line in lines if "removed from the names" in line]
        assert sorted("".join(said)) == sorted(prefix) and (not words or words in said), prefix
    state, lines = converted(tmp_path, write(tmp_path / "f", OURS))
    assert is_ours(state) and not any("removed" in line for line in lines)


def test_the_words_of_wrappers_go_wherever_they_stand(tmp_path):
    inner = {n.replace("layer2.", "layer2._orig_mod.").replace("layer3.0.", "layer3.0._checkpoint_wrapped_module."): a
             for n, a in OURS.items()}  # fmt: skip
    state, lines = converted(tmp_path, as_safetensors(tmp_path / "f", inner))
    assert is_ours(state)
    assert 'the word "_orig_mod." was removed from the names' in lines
    assert 'the word "_checkpoint_wrapped_module." was removed from the names' in lines


@pytest.mark.parametrize("writer", [torch_zip, torch_legacy])
@pytest.mark.parametrize("keys", [("state_dict",), ("model",), ("net",), ("model_state_dict",), ("mine",),
                                  ("model", "state_dict")])  # fmt: skip
def test_a_dict_in_the_checkpoint_is_a_prefix(tmp_path, keys, writer):
    saved = with_prefix("module._orig_mod.")
    for key in reversed(keys):
        saved = {"epoch": 3, key: saved, "optimizer": {"state": {0: {"momentum": OURS["bn1.bias"]}}, "lr": None}}
    state, lines = converted(tmp_path, as_torch(tmp_path / "f", saved, writer))
    assert is_ours(state)
    assert f'the prefix "{".".join(keys)}.module." was removed from the names' in lines


def test_what_stands_beside_the_network_is_left_out_and_printed(tmp_path):
    """The robustness library keeps a second name of each weight in the attacker, and the input's mean and std."""
    std = np.full((3, 1, 1), 0.25, np.float32)
    beside = {"module.normalizer.new_std": std, "module.attacker.normalize.new_std": std}
    for attacker in (OURS, OTHERS):
        saved = {"model": with_prefix("module.model.") | with_prefix("module.attacker.model.", attacker) | beside}
        state, lines = converted(tmp_path, as_torch(tmp_path / "f", saved))
        assert is_ours(state)
        assert 'the prefix "model.module.model." was removed from the names' in lines
        assert f"left out, beside the network: model. ({len(OURS) + 2} tensors)" in lines


@pytest.mark.parametrize("plain, other", [("model.", "ema."), ("", "ema."), ("module.", "teacher.module."),
                                          ("net.", "model_ema."), ("state_dict.", "state_dict_ema.")])  # fmt: skip
def test_of_two_sets_the_plain_one_is_taken_and_the_other_named(tmp_path, plain, other):
    both = with_prefix(other, OTHERS) | with_prefix(plain)
    path = as_safetensors(tmp_path / "f", both)
    state, lines = converted(tmp_path, path)
    assert is_ours(state)
    assert f"left out, beside the network: {other.split('.')[0]}. ({len(OURS)} tensors)" in lines
    state, _ = converted(tmp_path, path, prefix=other)
    assert not is_ours(state) and (state["fc.bias"] == NETWORK.state()["fc.bias"] + 1).all()
    state, _ = converted(tmp_path, path, prefix=plain.removesuffix("."))
    assert is_ours(state)


def test_of_two_sets_without_a_plain_one_the_user_chooses(tmp_path):
    path = as_npz(tmp_path / "f", with_prefix("student.") | with_prefix("teacher.", OTHERS))
    with pytest.raises(InputError, match=r"several sets of weights that fit \(student., teacher.\): choose one with"):
        converted(tmp_path, path)
    with pytest.raises(InputError, match="f.npz holds no name that begins with pupil: give another --prefix"):
        converted(tmp_path, path, prefix="pupil")
    assert is_ours(converted(tmp_path, path, prefix="student")[0])
    path = as_npz(tmp_path / "f", with_prefix("student.") | with_prefix("teacher."))
    assert is_ours(converted(tmp_path, path)[0])  # they are the same


def test_the_command_takes_a_prefix(tmp_path, monkeypatch, capsys):
    path = as_npz(tmp_path / "f", with_prefix("student.") | with_prefix("teacher.", OTHERS))
    thin_convert = converting.convert
    monkeypatch.setattr(command, "convert", lambda *a, **k: thin_convert(*a, **k, width=test_convert.WIDTH))
    argv = [str(path), str(tmp_path / "o.h5"), "--model", "resnet20"]
    assert command.main(argv) == 2 and "choose one with --prefix" in capsys.readouterr().err
    assert command.main([*argv, "--prefix", "student"]) == 0
    assert is_ours(models.build(None, weights=str(tmp_path / "o.h5")).state())


def test_a_keras_model_inside_another(tmp_path):
    """Sequential([VGG16(include_top=False), Flatten(), Dense(8)]): its layers' names begin with the model's."""
    network = thin(VGG)
    inner = {n: a for n, a in as_published(VGG, network).items() if n.startswith("block")}
    layers = {"vgg16": {f"{name}:0": a for name, a in inner.items()}, "flatten": {},
              "dense": {"dense/kernel:0": np.ones((9, 8), "f4"), "dense/bias:0": np.ones(8, "f4")}}  # fmt: skip
    state, lines = converted(tmp_path, keras2(tmp_path / "f", layers), VGG)
    assert all((state[n] == a).all() for n, a in network.state().items() if n.startswith("conv"))
    assert 'the prefix "vgg16/" was removed from the names' in lines
    assert "left out, beside the network: dense/ (2 tensors)" in lines


# --- Caffe's VGG16s have the same names -------------------------------------------------------------------------------

MEANS = {"VGG_FACE": (93.5940, 104.7624, 129.1863), "VGG_ILSVRC_16": (103.939, 116.779, 123.68)}  # blue, green, red


def vgg16_of(classes):
    m = next(m for m in caffe.MAPS if m.model == "vgg16")
    return as_published(m, thin(m, classes))


@pytest.mark.parametrize("classes, source", [(2622, "VGG_FACE"), (1000, "VGG_ILSVRC_16")])
def test_the_number_of_classes_tells_the_vgg16s_of_caffe_apart(tmp_path, monkeypatch, classes, source):
    published(monkeypatch, vgg16_of(classes), "Caffe")
    lines = converting.convert(Path("f"), tmp_path / "o.h5", model="vgg16", width=test_convert.WIDTH)
    definition = models.build(None, weights=str(tmp_path / "o.h5")).definition
    assert f"vgg16 of {source}, " in lines[-1] and definition["bgr"]
    np.testing.assert_allclose(definition["mean"], np.array(MEANS[source]) / 255)
    assert not any("is assumed" in line for line in lines)


@pytest.mark.parametrize("classes", [8, 2, 1001, 2623, None])
def test_another_number_of_classes_asks_for_the_source(tmp_path, monkeypatch, classes):
    tensors = vgg16_of(classes or 8)
    if classes is None:
        tensors = {name: a for name, a in tensors.items() if not name.startswith("fc8")}
    published(monkeypatch, tensors, "Caffe")
    count = "no last layer" if classes is None else f"{classes} classes"
    with pytest.raises(InputError, match=f"file.x has {count} and the names of VGG_FACE .2622 classes. and VGG_ILSVRC"):
        converting.convert(Path("f"), tmp_path / "o.h5", model="vgg16", classes=8, width=test_convert.WIDTH)
    for source, mean in MEANS.items():
        out = tmp_path / source
        converting.convert(Path("f"), out, model="vgg16", source=source, classes=8, width=test_convert.WIDTH)
        np.testing.assert_allclose(models.build(None, weights=str(out)).definition["mean"], np.array(mean) / 255)


def test_a_number_of_classes_that_is_not_the_sources_is_printed(tmp_path):
    _, lines = converted(tmp_path, as_npz(tmp_path / "f", OURS))
    assert "the file has 5 classes, the published one 10: the mean of pytorch_resnet_cifar10 is assumed" in lines
