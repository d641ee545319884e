"""Files that Keras wrote under Theano, or with the channels first: kernels turned, axes and rows in another order."""

import json

import h5py
import numpy as np
import pytest
import test_convert
from test_convert import as_published, map_of, thin
from weight_files import config_of, keras2, keras3, keras_archive

from minisatm import models
from weights_convert import convert as converting
from weights_convert.readers import read

M = map_of("keras.applications", "vgg16")
NETWORK = thin(M)
TENSORFLOW = as_published(M, NETWORK)
ORDER = ("kernel", "bias")
TURNED = "written under Theano: 13 kernels were turned by 180 degrees"
FIRST = "Keras 1 with dim_ordering th: 13 kernels were (out, in, height, width)"
ROWS = "channels first: the rows of fc1 were put in the order (height, width, channel)"


def turned(tensors):
    return {n: a[::-1, ::-1] if a.ndim == 4 else a for n, a in tensors.items()}


def filters_first(tensors):
    return {n: a.transpose(3, 2, 0, 1) if a.ndim == 4 else a for n, a in tensors.items()}


def rows_of_channels_first(tensors):
    fc1 = tensors["fc1/kernel"]  # its rows are (7, 7, C), in this order
    return tensors | {"fc1/kernel": fc1.reshape(7, 7, -1, fc1.shape[1]).transpose(2, 0, 1, 3).reshape(fc1.shape)}


def written(path, tensors, *, old=False, group=None, **attributes):
    """The file of Keras 2 (or of Keras 1, which names the arrays W and b) with these attributes, at the top."""
    layers = {}
    for name, array in tensors.items():
        layer, word = name.split("/")
        full = f"{layer}_{word[0].replace('k', 'W')}_1:0" if old else f"{layer}/{word}:0"
        layers.setdefault(layer, {})[full] = array
    keras2(path, layers, group)
    with h5py.File(path, "a") as file:
        top = file[group] if group else file
        for name in ("backend", "keras_version"):
            del top.attrs[name]
        for name, value in attributes.items():
            file.attrs[name] = value
    return path


def check(tmp_path, path, *notes):
    lines = converting.convert(path, tmp_path / "o.h5", model="vgg16", width=test_convert.WIDTH)
    state = models.build(None, weights=str(tmp_path / "o.h5")).state()
    (tmp_path / "o.h5").unlink()
    assert {n: a.tobytes() for n, a in state.items()} == {n: a.tobytes() for n, a in NETWORK.state().items()}
    said = [line for line in lines if line in (TURNED, FIRST, ROWS)]
    assert said == list(notes) and not [line for line in lines if "kernels were" in line and line not in said]


@pytest.mark.parametrize("backend", [b"theano", "theano", np.array([b"theano"])[0], "Theano"], ids=str)
def test_kernels_of_keras_2_under_theano_are_turned(tmp_path, backend):
    check(tmp_path, written(tmp_path / "f", turned(TENSORFLOW), backend=backend, keras_version="2.0.8"), TURNED)
    path = written(tmp_path / "f", turned(TENSORFLOW), group="model_weights", backend=backend, keras_version="2.0.8")
    check(tmp_path, path, TURNED)


def test_the_backend_may_stand_in_the_config_alone(tmp_path):
    config = json.dumps({"class_name": "Model", "backend": "theano", "config": {"layers": []}})
    for value in (config, config.encode()):
        check(tmp_path, written(tmp_path / "f", turned(TENSORFLOW), model_config=value), TURNED)


@pytest.mark.parametrize("backend", ["tensorflow", "cntk", "jax", None])
def test_kernels_of_other_backends_stay(tmp_path, backend):
    more = {} if backend is None else {"backend": backend}
    check(tmp_path, written(tmp_path / "f", TENSORFLOW, keras_version="2.2.4", **more))
    check(tmp_path, written(tmp_path / "f", TENSORFLOW, model_config="{broken", **more))


def test_theanos_convolution_is_the_one_of_mathematics(tmp_path):
    """The first layer of a file of Theano, against sum over i, j of w[i, j] x[r + 1 - i, c + 1 - j], written out."""
    rng = np.random.default_rng(3)
    kernel, x = rng.standard_normal((3, 3, 3, 4)).astype("f4"), rng.random((32, 32, 3))
    tensors = TENSORFLOW | {"block1_conv1/kernel": kernel}
    path = written(tmp_path / "f", tensors, backend=b"theano", keras_version="2.0.8")
    ours = read(path).tensors["block1_conv1/kernel"]
    for r, c in ((1, 1), (5, 20), (30, 30)):
        theano = sum(x[r + 1 - i, c + 1 - j] @ kernel[i, j] for i in range(3) for j in range(3))
        correlation = sum(x[r - 1 + i, c - 1 + j] @ ours[i, j] for i in range(3) for j in range(3))
        np.testing.assert_allclose(correlation, theano)


def old_config(ordering):
    layers = [{"class_name": "Convolution2D", "config": {"name": "c", "dim_ordering": ordering}},
              {"class_name": "Flatten", "config": {"name": "flatten"}}]  # fmt: skip
    return json.dumps({"class_name": "Sequential", "config": layers})


@pytest.mark.parametrize("attributes", [{}, {"keras_version": "1.2.2"}, {"model_config": old_config("th")},
                                        {"keras_version": b"1.1.0", "backend": b"theano"}], ids=str)  # fmt: skip
def test_keras_1_with_the_channels_first(tmp_path, attributes):
    tensors = filters_first(turned(rows_of_channels_first(TENSORFLOW)))
    check(tmp_path, written(tmp_path / "f", tensors, old=True, **attributes), FIRST, TURNED, ROWS)


def test_the_published_files_of_keras_1_have_the_kernels_in_their_names(tmp_path):
    first = rows_of_channels_first(TENSORFLOW)
    cases = {
        "vgg16_weights_th_dim_ordering_th_kernels.h5": (filters_first(turned(first)), FIRST, TURNED, ROWS),
        "vgg16_weights_th_dim_ordering_tf_kernels.h5": (filters_first(first), FIRST, ROWS),
        "vgg16_weights_tf_dim_ordering_th_kernels.h5": (turned(TENSORFLOW), TURNED),
        "vgg16_weights_tf_dim_ordering_tf_kernels.h5": (TENSORFLOW,),
    }
    for name, (tensors, *notes) in cases.items():
        check(tmp_path, written(tmp_path / name, tensors, old=True), *notes)
    tensors = filters_first(first)
    check(tmp_path, written(tmp_path / "f", tensors, old=True, backend="tensorflow", keras_version="1.2"), FIRST, ROWS)


@pytest.mark.parametrize("flatten, swaps", [({}, False), ({"data_format": "channels_last"}, False),
                                            ({"data_format": "channels_first"}, True)], ids=str)  # fmt: skip
def test_the_rows_of_keras_2_with_the_channels_first(tmp_path, flatten, swaps):
    """Its kernels have the usual axes; a Flatten that knows that the channels are first puts them last."""
    config = config_of(("Conv2D", "block5_conv3", {"data_format": "channels_first"}), ("Flatten", "flatten", flatten))
    tensors = TENSORFLOW if swaps else rows_of_channels_first(TENSORFLOW)
    path = written(tmp_path / "f", tensors, model_config=json.dumps(config), keras_version="2.1")
    check(tmp_path, path, *([] if swaps else [ROWS]))


def test_an_archive_of_keras_3_with_the_channels_first(tmp_path):
    rng = np.random.default_rng(0)
    kernel, dense = rng.random((3, 3, 3, 5)).astype("f4"), rng.random((20, 4)).astype("f4")
    groups = {"layers/conv2d/vars/0": kernel, "layers/dense/vars/0": dense}
    layers = [("Conv2D", "c", {"data_format": "channels_first"}), ("Flatten", "f", {}), ("Dense", "d", {})]
    tensors = read(keras_archive(tmp_path / "f", config_of(*layers), groups)).tensors
    np.testing.assert_array_equal(tensors["c/kernel"], kernel)
    np.testing.assert_array_equal(tensors["d/kernel"], dense.reshape(5, 2, 2, 4).transpose(1, 2, 0, 3).reshape(20, 4))
    layers[0] = ("Conv2D", "c", {})
    np.testing.assert_array_equal(
        read(keras_archive(tmp_path / "f", config_of(*layers), groups)).tensors["d/kernel"], dense
    )
    keras3(tmp_path / "g", groups)  # without a config there is nothing to know it from
    np.testing.assert_array_equal(read(tmp_path / "g").tensors["dense/0"], dense)
