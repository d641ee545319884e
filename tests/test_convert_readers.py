"""The readers of other frameworks' weight files: on files written here by hand, and by the frameworks themselves."""

import ast
import hashlib
import os
import tracemalloc
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
from weight_files import (
    KINDS,
    RNG,
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
    pickled,
    refusal,
    safetensors_file,
    same,
    small,
    tensor,
    torch_legacy,
    torch_zip,
    varint,
)

from weights_convert import readers
from weights_convert.readers import read

# ---- what is read


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_of_each_kind_is_known_by_its_content(tmp_path, kind):
    path = small(tmp_path / "model.anything", kind)
    source = read(str(path))
    assert (source.format, source.path) == (kind, path)
    assert source.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert any(np.array_equal(a, A) for a in source.tensors.values())
    assert any(np.array_equal(a, B) for a in source.tensors.values())


def test_keras_2_names_are_layer_and_weight_in_the_order_of_the_attributes(tmp_path):
    layers = {
        "z_conv": {"z_conv/z_conv/kernel:0": A, "z_conv/z_conv/bias:0": B},
        "bn": {"bn_3/gamma:0": B, "bn_3/moving_mean:0": B + 1},
        "old": {"old_W_1:0": A, "old_b_1:0": B},
        "flatten": {},
        "inner": {"inner/d1/kernel:0": A, "d2/kernel:0": A + 1},
    }
    expected = {"z_conv/kernel": A, "z_conv/bias": B, "bn/gamma": B, "bn/moving_mean": B + 1, "old/old_W_1": A,
                "old/old_b_1": B, "inner/d1/kernel": A, "inner/d2/kernel": A + 1}  # fmt: skip
    for group, chunked in ((None, False), ("model_weights", False), (None, True)):
        source = read(keras2(tmp_path / "w", layers, group, chunked))
        same(source.tensors, expected)


def test_keras_3_counts_layers_by_class_in_their_natural_order(tmp_path):
    groups = {f"layers/conv2d{i and f'_{i}' or ''}/vars/0": A + i for i in range(12)}
    groups |= {"layers/sequential/layers/dense/vars/0": B, "optimizer/vars/0": A, "metrics/mean/vars/0": A}
    source = read(keras3(tmp_path / "w", groups))
    same(source.tensors, {**{f"conv2d{i and f'_{i}' or ''}/0": A + i for i in range(12)}, "sequential/dense/0": B})


def test_a_keras_archive_has_the_names_and_the_order_of_its_config(tmp_path):
    inner = {"layers": [{"class_name": "Dense", "config": {"name": "d1"}}]}
    config = config_of(
        ("InputLayer", "image", {}), ("Conv2D", "z", {}), ("BatchNormalization", "bn", {"scale": False}),
        ("SeparableConv2D", "sep", {}), ("Sequential", "head", inner), ("Conv2D", "a", {}), ("Strange", "s", {}),
    )  # fmt: skip
    groups = {"layers/batch_normalization/vars/0": B, "layers/batch_normalization/vars/1": B + 1,
              "layers/batch_normalization/vars/2": B + 2, "layers/conv2d/vars/0": A, "layers/conv2d/vars/1": B,
              "layers/conv2d_1/vars/0": A + 1, "layers/separable_conv2d/vars/0": A, "layers/separable_conv2d/vars/1": A,
              "layers/sequential/layers/dense/vars/0": A + 2, "layers/strange/vars/0": B,
              "optimizer/vars/0": B}  # fmt: skip
    expected = {"z/kernel": A, "z/bias": B, "bn/beta": B, "bn/moving_mean": B + 1, "bn/moving_variance": B + 2,
                "sep/depthwise_kernel": A, "sep/pointwise_kernel": A, "head/d1/kernel": A + 2, "a/kernel": A + 1,
                "s/0": B}  # fmt: skip
    for compression in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        source = read(keras_archive(tmp_path / "m.keras", config, groups, compression))
        same(source.tensors, expected)
        assert source.notes == ("Keras 3.5.0", "the names and the order of the layers are known")


def test_torch_views_share_storages_and_become_contiguous(tmp_path):
    flat = np.arange(24, dtype=np.float32)
    bits = (flat.view(np.uint32) >> 16).astype("<u2")  # small whole numbers: exact in bfloat16
    half, word = flat.astype("<f2"), np.array([7], "<i8")
    saved = {
        "whole": tensor("0", 24, (4, 6), (6, 1)),
        "turned": tensor("0", 24, (6, 4), (1, 6)),
        "part": tensor("0", 24, (2, 3), (12, 2), offset=5),
        "spread": tensor("0", 24, (3, 2), (0, 1), offset=22),
        "scalar": tensor("1", 1, (), (), kind="Long", module="torch.cuda"),
        "empty": tensor("0", 24, (0, 5), (5, 1), offset=24),
        "bfloat16": tensor("2", 24, (24,), (1,), kind="BFloat16"),
        "half": tensor("3", 24, (12,), (2,), kind="Half"),
        "parameter": Call(Global("torch._utils", "_rebuild_parameter"), (tensor("0", 24, (2,), (1,)), True, {})),
        "old view": tensor("0", 24, (3,), (1,), offset=1, view=(("9", 10, 4),)),
        "number": 4,
    }
    part = np.array([[5, 7, 9], [17, 19, 21]], np.float32)
    expected = {"whole": flat.reshape(4, 6), "turned": flat.reshape(4, 6).T, "part": part,
                "spread": np.array([[22, 23]] * 3, np.float32), "scalar": np.array(7), "empty": np.zeros((0, 5), "f4"),
                "bfloat16": flat, "half": flat[::2], "parameter": flat[:2], "old view": flat[11:14]}  # fmt: skip
    arrays = {"0": flat, "1": word, "2": bits, "3": half}
    zipped = torch_zip(tmp_path / "z", pickled(saved), {k: a.tobytes() for k, a in arrays.items()})
    same(read(zipped).tensors, expected)
    swapped = {k: a.byteswap().tobytes() for k, a in arrays.items()}
    same(read(torch_zip(tmp_path / "b", pickled(saved), swapped, byteorder=b"big")).tensors, expected)
    legacy = torch_legacy(tmp_path / "l", pickled(saved), {k: (a.size, a.tobytes()) for k, a in arrays.items()})
    same(read(legacy).tensors, expected)


def test_a_checkpoint_gives_its_state_dict(tmp_path):
    one, data = tensor("0", 12, (3, 4), (4, 1)), {"0": A.tobytes()}
    scalar = Call(Global("numpy.core.multiarray", "scalar"), (Call(Global("numpy", "dtype"), ("f8",)), "bytes"))
    checkpoint = {"epoch": 3, "best": one, "metric": scalar, "optimizer": {"state": {0: {"m": one}}, "lr": None}}

    def holds(saved, *names):
        same(read(torch_zip(tmp_path / "c", pickled(saved), data)).tensors, dict.fromkeys(names, A))

    ordered = Call(Global("collections", "OrderedDict"), ([["w", one]],))  # as Python 2 wrote it
    holds({**checkpoint, "state_dict": ordered}, "best", "state_dict.w")
    holds({"mine": {"w": one}}, "mine.w")
    holds({"w": one}, "w")
    holds({"module.w": one, "v": one}, "module.w", "v")
    holds({"a": {"b": {"c": {"d": {"w": one}}}}}, "a.b.c.d.w")


def test_safetensors_of_every_type(tmp_path):
    arrays = {"a": A, "h": A.astype("<f2"), "i": np.arange(5), "u": np.arange(5, dtype="u1"), "s": np.array(2.5),
              "e": np.zeros((0, 3), "f4"), "t": np.array([True, False])}  # fmt: skip
    names = {"f4": "F32", "f2": "F16", "i8": "I64", "u1": "U8", "f8": "F64", "b1": "BOOL"}
    bits = (B.view(np.uint32) >> 16).astype("<u2")
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, array in [*arrays.items(), ("b", bits)]:
        kind = "BF16" if name == "b" else names[array.dtype.str[1:]]
        end = len(data) + array.nbytes
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": [len(data), end]}
        data += array.tobytes()
    tensors = read(safetensors_file(tmp_path / "w", header, data)).tensors
    same(tensors, {**arrays, "h": A.astype("f2").astype("f4"), "b": (bits.astype("u4") << 16).view("f4")})


def test_both_generations_of_caffe(tmp_path):
    four = RNG.normal(size=(2, 3, 5, 7)).astype(np.float32)
    old_shape = b"".join(field(i + 1, n) for i, n in enumerate(four.shape))
    many = RNG.normal(size=5000).astype(np.float32)
    double = varint(8 << 3 | 2) + varint(32) + B.astype("<f8").tobytes()
    unpacked_shape = field(7, field(1, 3) + field(1, 4))
    path = tmp_path / "w"
    path.write_bytes(
        field(1, b"net")
        + field(100, field(1, b"data") + field(2, b"Data"))
        + caffe_layer("new", blob(A), blob(B))
        + caffe_layer("old", blob(four, old_shape), old=True)
        + caffe_layer(
            "more", blob(many, unpacked=True), double + field(7, field(1, bytes([4]))), blob(A, unpacked_shape)
        )
    )
    expected = {"new/0": A, "new/1": B, "old/0": four, "more/0": many, "more/1": B.astype("f8"), "more/2": A}
    same(read(path).tensors, expected)


def test_npz_with_columns_first_and_big_endian_arrays(tmp_path):
    np.savez_compressed(tmp_path / "w", a=np.asfortranarray(A), b=B.astype(">f4"), s=np.int16(3), h=A.astype("f2"))
    half = A.astype("f2").astype("f4")
    same(read(tmp_path / "w.npz").tensors, {"a": A, "b": B, "s": np.array(3, np.int16), "h": half})


def test_the_real_files_are_read(data_dir):
    source = read(data_dir / "weights/cifar10_resnet20/resnet20-12fca82f.th")
    assert source.format == "PyTorch legacy" and source.sha256.startswith("12fca82f")
    assert len(source.tensors) == 97 and source.tensors["state_dict.module.layer2.0.conv1.weight"].shape == (
        32,
        16,
        3,
        3,
    )
    source = read(data_dir / "weights/mnist_lenet/lenet_iter_10000.caffemodel")
    shapes = {"conv1/0": (20, 1, 5, 5), "conv1/1": (20,), "conv2/0": (50, 20, 5, 5), "conv2/1": (50,),
              "ip1/0": (500, 800), "ip1/1": (500,), "ip2/0": (10, 500), "ip2/1": (10,)}  # fmt: skip
    assert {name: a.shape for name, a in source.tensors.items()} == shapes and source.format == "Caffe"


def test_a_large_file_is_in_memory_once(tmp_path):
    big = np.zeros((2**21, 2), np.float32)
    one = pickled({"w": tensor("0", big.size, big.shape, (2, 1))})
    files = [
        torch_zip(tmp_path / "z", one, {"0": big.tobytes()}),
        torch_legacy(tmp_path / "l", one, {"0": (big.size, big.tobytes())}),
        keras2(tmp_path / "k", {"a": {"a/w:0": big}}),
        keras_archive(tmp_path / "a", config_of(("Dense", "a", {})), {"layers/dense/vars/0": big}),
        npz_of(tmp_path / "n", {"w": big}),
        safetensors_file(tmp_path / "s", {"w": {"dtype": "F32", "shape": big.shape, "data_offsets": [0, big.nbytes]}},
                         big.tobytes()),
    ]  # fmt: skip
    (tmp_path / "c").write_bytes(caffe_layer("w", blob(big)))
    for path in [*files, tmp_path / "c"]:
        tracemalloc.start()
        read(path)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert big.nbytes <= peak < 1.5 * big.nbytes, path


# ---- written by the frameworks


@pytest.mark.peer
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_pytorch_saves(torch, tmp_path):
    base = torch.randn(4, 6)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    state = {"view": base[1:, ::2], "turned": base.t(), "same": base, "half": base.half(), "bf": base.bfloat16(),
             "scalar": torch.tensor(3), "empty": base[:0], "bool": base > 0, "byte": torch.arange(5).byte(),
             "parameter": torch.nn.Parameter(base[2]), "wide": base.double(), "spread": base[:1].expand(3, 6),
             "last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last), **model.state_dict()}  # fmt: skip
    widened = {torch.float16: torch.float32, torch.bfloat16: torch.float32}
    expected = {k: v.detach().to(widened.get(v.dtype, v.dtype)).contiguous().numpy() for k, v in state.items()}
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.zeros(1, 3, 5, 5)).sum().backward()
    optimizer.step()
    for zipped in (True, False):
        torch.save(state, tmp_path / "w", _use_new_zipfile_serialization=zipped)
        same(read(tmp_path / "w").tensors, expected)
        parallel = {"module." + k: v for k, v in model.state_dict().items()}
        checkpoint = {"epoch": 3, "best": np.float64(0.5), "state_dict": parallel, "optimizer": optimizer.state_dict()}
        torch.save(checkpoint, tmp_path / "c", _use_new_zipfile_serialization=zipped)
        assert list(read(tmp_path / "c").tensors) == [f"state_dict.module.{name}" for name in model.state_dict()]
        torch.save(model, tmp_path / "m", _use_new_zipfile_serialization=zipped)
        assert refusal(tmp_path / "m").startswith("is a whole saved model")
    torch.jit.script(model).save(tmp_path / "j")
    assert refusal(tmp_path / "j").startswith("is a whole saved model (it asks Python for __torch__.torch.nn.")


@pytest.mark.peer
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_safetensors_saves(tmp_path):
    peer = pytest.importorskip("safetensors.numpy", reason="safetensors is not installed; it is only an optional peer")
    arrays = {"b": A, "a": B, "i": np.arange(7), "s": np.array(2.5), "e": np.zeros((3, 0), np.float32)}
    peer.save_file(arrays, tmp_path / "w", metadata={"format": "np"})
    tensors = read(tmp_path / "w").tensors
    same(dict(sorted(tensors.items())), dict(sorted(arrays.items())))


@pytest.fixture(scope="module")
def keras_model():
    os.environ.setdefault("KERAS_BACKEND", "torch")
    keras = pytest.importorskip("keras", reason="Keras is not installed; it is only an optional peer of these tests")
    layers = keras.layers
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, name="z_conv")(image)
    x = layers.BatchNormalization(name="bn", scale=False)(x)
    x = layers.DepthwiseConv2D(3, name="depthwise")(x)
    x = layers.SeparableConv2D(4, 1, name="separable", use_bias=False)(x)
    for i in range(11):
        x = layers.Conv2D(4, 1, name=f"a{i}")(x)
    x = layers.BatchNormalization(name="bn_last")(layers.Flatten()(x))
    head = [keras.Input((64,)), layers.Dense(3, name="d1"), layers.Dense(2, name="d2")]
    model = keras.Model(image, layers.Dense(5, name="out")(keras.Sequential(head, name="head")(x)))
    model.compile(optimizer="adam", loss="mse")
    model.train_on_batch(np.ones((2, 8, 8, 3)), np.ones((2, 5)))
    return model


@pytest.mark.peer
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_keras_saves(keras_model, tmp_path):
    model = keras_model
    expected = {}
    for layer in model.layers:
        prefix = "head/" if layer.name == "head" else ""
        expected |= {prefix + "/".join(v.path.split("/")[-2:]): v.numpy() for v in layer.variables}
    model.save(tmp_path / "m.keras")
    same(read(tmp_path / "m.keras").tensors, expected)
    model.save(tmp_path / "m.h5")
    same(read(tmp_path / "m.h5").tensors, expected)
    model.save_weights(tmp_path / "m.weights.h5")
    tensors = read(tmp_path / "m.weights.h5").tensors
    assert len(tensors) == len(expected)
    np.testing.assert_array_equal(tensors["conv2d/0"], expected["z_conv/kernel"])
    np.testing.assert_array_equal(tensors["conv2d_11/1"], expected["a10/bias"])
    np.testing.assert_array_equal(tensors["sequential/dense_1/0"], expected["head/d2/kernel"])
    assert [n for n in tensors if n.endswith("/0")][2:5] == ["conv2d/0", "conv2d_1/0", "conv2d_2/0"]


@pytest.mark.peer
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_bfloat16_of_keras(tmp_path):
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed; it is only an optional peer")
    with h5py.File(tmp_path / "w", "w") as file:
        dataset = file.create_dataset("layers/dense/vars/0", data=A.astype(ml_dtypes.bfloat16))
        dataset.attrs["dtype"] = "bfloat16"
    same(read(tmp_path / "w").tensors, {"dense/0": A.astype(ml_dtypes.bfloat16).astype(np.float32)})


def test_the_readers_can_import_and_run_nothing_else():
    """No framework, and nothing that unpickles or evaluates: pickletools, json and NumPy's header parser only read."""
    allowed = {"__future__", "collections", "dataclasses", "errno", "functools", "hashlib", "io", "itertools", "json",
               "math", "pathlib", "pickletools", "re", "stat", "struct", "tempfile", "typing", "zipfile", "numpy",
               "h5py", "minisatm"}  # fmt: skip
    files = sorted(Path(readers.__file__).parent.glob("*.py"))
    assert len(files) == 9
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                assert {alias.name.split(".")[0] for alias in node.names} <= allowed, file
            elif isinstance(node, ast.ImportFrom) and not node.level:
                assert str(node.module).split(".")[0] in allowed, file
            elif isinstance(node, ast.Name):
                assert node.id not in ("eval", "exec", "compile", "__import__", "globals"), file
