"""weights_convert: every map on thin networks there and back, the report, and all that can be wrong with a file."""

import json
import re
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from minisatm import Tensor, attacks, classify, models
from minisatm.data import Batches, mnist
from minisatm.errors import InputError
from minisatm.models.files import definition_of
from minisatm.models.network import predict
from weights_convert import __main__ as command
from weights_convert import convert as converting
from weights_convert.maps import MAPS, Pair
from weights_convert.readers import WeightFile

WIDTH = 1 / 16
IDS = [f"{m.source}-{m.model}{'-bn' if m.variant.get('batch_norm') else ''}" for m in MAPS]


def thin(m, classes=5):
    """A network that a source could have published, with random statistics, too."""
    network = models.build(m.model, classes=classes, width=WIDTH, size=m.size, channels=m.channels, rng=1, **m.variant)
    rng = np.random.default_rng(2)
    state = {n: a + 0.1 * rng.random(a.shape, np.float32) for n, a in network.state().items()}
    network.set_state(state)
    return network


def as_published(m, network):
    """The source's tensors: every layout the other way round."""
    found, state = {}, network.state()
    for pair in (Pair(*p) for p in m.pairs(network)):
        a = state[pair.ours]
        if pair.layout == "OIHW->HWIO":
            a = a.transpose(3, 2, 0, 1)
        elif pair.layout == "OI->IO":
            a = a.T
        elif pair.chw:
            C, H, W = pair.chw
            a = a.reshape(H, W, C, -1).transpose(3, 2, 0, 1).reshape(-1, C * H * W)
        found[pair.theirs] = np.ascontiguousarray(a)
    return found


def published(monkeypatch, tensors, format_="NumPy archive", notes=()):
    """Let the reader find these tensors, whatever the path."""
    monkeypatch.setattr(
        converting,
        "read",
        lambda path: WeightFile(Path("file.x"), format_, dict(tensors), sha256="ab" * 32, notes=notes),
    )


def run(tmp_path, m, **options):
    out = tmp_path / "out.h5"
    return out, converting.convert(Path("file.x"), out, model=m.model, width=WIDTH, **options)


def map_of(source, model):
    return next(m for m in MAPS if (m.source, m.model) == (source, model))


# --- every map -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("m", MAPS, ids=IDS)
def test_a_map_names_every_weight_once(m):
    network = thin(m)
    pairs = [Pair(*p) for p in m.pairs(network)]
    assert sorted(p.ours for p in pairs) == sorted(network.state())
    assert len({p.theirs for p in pairs}) == len(pairs)
    assert set(m.top) <= {p.theirs for p in pairs if p.ours.startswith(network.top + ".")} and len(m.top) == 2


@pytest.mark.parametrize("m", MAPS, ids=IDS)
def test_there_and_back(tmp_path, monkeypatch, m):
    """The file alone tells the graph: kind, classes, size, and the source's variant of it."""
    network = thin(m, m.classes if m.source.startswith("VGG_") else 5)  # Caffe's VGG16s have the same names
    tensors = as_published(m, network)
    published(monkeypatch, tensors)
    out, lines = run(tmp_path, m)
    assert f" {m.model} of {m.source}, " in lines[-1]  # it was recognised
    built = models.build(m.model, weights=str(out))
    assert built.definition == network.definition
    expected = network.state()
    assert {n: a.tobytes() for n, a in built.state().items()} == {n: a.tobytes() for n, a in expected.items()}
    with h5py.File(out) as file:
        origin = json.loads(file.attrs["source"])
    assert origin["file"] == "file.x" and origin["sha256"] == "ab" * 32 and origin["map"] == m.source
    assert all(any(line.startswith(name + " ") for line in lines) for name in tensors)
    assert ("not tried on the real file" in lines[-1]) == (not m.tried)


@pytest.mark.parametrize("m", [m for m in MAPS if m.order], ids=lambda m: m.model)
def test_keras_3_knows_layers_by_number(tmp_path, monkeypatch, m):
    network = thin(m)
    tensors, counts, numbered = as_published(m, network), {}, {}
    for layer in m.order(network):
        own = {n.rpartition("/")[2]: a for n, a in tensors.items() if n.rpartition("/")[0] == layer}
        kind = "batch_normalization" if "beta" in own else "conv2d" if own["kernel"].ndim == 4 else "dense"
        number = counts[kind] = counts.get(kind, -1) + 1
        words = ("kernel", "bias", "gamma", "beta", "moving_mean", "moving_variance")
        for k, word in enumerate(w for w in words if w in own):
            numbered[f"{kind}{f'_{number}' if number else ''}/{k}"] = own[word]
    assert len(numbered) == len(tensors)
    published(monkeypatch, numbered, "Keras 3 weights")
    out, _ = run(tmp_path, m, source=m.source)
    state = models.build(m.model, weights=str(out)).state()
    assert {n: a.tobytes() for n, a in state.items()} == {n: a.tobytes() for n, a in network.state().items()}


def test_keras_counts_on_from_other_networks(tmp_path, monkeypatch):
    """The published files begin at conv2d_1, a second network of a session at conv2d_95."""
    m = map_of("keras.applications", "inception_v3")
    network = thin(m)
    tensors = as_published(m, network)
    auto = re.compile(r"(conv2d|batch_normalization)(?:_(\d+))?/")
    for first in (1, 94):
        shifted = {
            auto.sub(lambda found: f"{found[1]}_{int(found[2] or 0) + first}/", name): a  # noqa: B023
            for name, a in tensors.items()
        }
        published(monkeypatch, shifted, "Keras 2 HDF5")
        run(tmp_path / str(first), m, source=m.source)


# --- the top ---------------------------------------------------------------------------------------------------------


def test_a_missing_top_is_drawn(tmp_path, monkeypatch):
    m = map_of("torchvision", "resnet50")
    network = thin(m)
    tensors = {n: a for n, a in as_published(m, network).items() if not n.startswith("fc.")}
    published(monkeypatch, tensors)
    out, lines = run(tmp_path, m, classes=8)
    assert [line for line in lines if line.startswith("drawn at random: fc.weight 128x8, N(0, 0.01^2)")]
    built = models.build("resnet50", weights=str(out))
    assert built.definition["classes"] == 8 and 0.005 < built.fc.weight.data.std() < 0.015
    assert (built.fc.bias.data == 0).all()
    assert (built.stem.conv.weight.data == network.stem.conv.weight.data).all()


def test_vgg16_without_its_dense_layers(tmp_path, monkeypatch):
    m = map_of("keras.applications", "vgg16")
    tensors = {n: a for n, a in as_published(m, thin(m)).items() if n.startswith("block")}
    published(monkeypatch, tensors, "Keras 2 HDF5")
    out, lines = run(tmp_path, m, classes=8)
    drawn = [line.split(": ")[1].split()[0] for line in lines if line.startswith("drawn at random: ")]
    assert drawn == [f"{name}.{part}" for name in ("fc6", "fc7", "fc8") for part in ("weight", "bias")]
    assert models.build(None, weights=str(out)).definition["classes"] == 8


@pytest.mark.parametrize("model", ["vgg16", "resnet50"])
def test_the_names_of_keras_1(tmp_path, monkeypatch, model):
    """block1_conv1/block1_conv1_W_1, as in the first published files."""
    m = map_of("keras.applications", model)
    network = thin(m)
    words = {"kernel": "W", "bias": "b", "moving_mean": "running_mean", "moving_variance": "running_std"}
    tensors = {}
    for name, array in as_published(m, network).items():
        layer, word = name.split("/")
        tensors[f"{layer}/{layer}_{words.get(word, word)}_1"] = array
    published(monkeypatch, tensors, "Keras 2 HDF5")
    out, _ = run(tmp_path, m)
    state = models.build(model, weights=str(out)).state()
    assert {n: a.tobytes() for n, a in state.items()} == {n: a.tobytes() for n, a in network.state().items()}


def test_another_number_of_classes_replaces_the_top(tmp_path, monkeypatch):
    m = map_of("keras.applications", "vgg16")
    published(monkeypatch, as_published(m, thin(m)))
    out, lines = run(tmp_path, m, classes=8)
    assert any(line.startswith("drawn at random: fc8.bias 8") for line in lines)
    assert models.build("vgg16", weights=str(out)).definition["classes"] == 8
    out, lines = run(tmp_path / "same", m, classes=5)  # as many as there are: kept
    assert not any("drawn" in line for line in lines)


# --- what does not fit -----------------------------------------------------------------------------------------------


def refused(tmp_path, m, message, **options):
    with pytest.raises(InputError, match=message):
        run(tmp_path, m, **options)
    assert list(tmp_path.iterdir()) == []


def test_unmatched_names_on_either_side(tmp_path, monkeypatch):
    m = map_of("torchvision", "resnet50")
    tensors = as_published(m, thin(m))
    tensors["layer1.0.conv1.wieght"] = tensors.pop("layer1.0.conv1.weight")
    tensors["layer1.0.bn1.num_batches_tracked"] = np.array(7)
    published(monkeypatch, tensors)
    refused(tmp_path, m, r"(?s)file.x does not fit resnet50 of torchvision \(2 names or shapes\).*missing in the file: "
            r"layer1.0.conv1.weight \(nearest: layer1.0.conv1.wieght\), for stage1.0.conv1.conv.weight.*"
            r"not in the map: layer1.0.conv1.wieght \(4, 4, 1, 1\) \(nearest: layer1.0.conv1.weight\)")  # fmt: skip
    out, lines = run(tmp_path, m, partial=True)
    assert "ignored: layer1.0.bn1.num_batches_tracked scalar" in lines
    assert any(
        line.startswith("left at its random start: missing in the file: layer1.0.conv1.weight") for line in lines
    )
    built = models.build("resnet50", weights=str(out))
    fresh = models.build(**built.definition, rng=0)
    assert (built.stage1[0].conv1.conv.weight.data == fresh.stage1[0].conv1.conv.weight.data).all()


def test_wrong_shapes(tmp_path, monkeypatch):
    m = map_of("torchvision", "vgg16")
    tensors = as_published(m, thin(m))
    tensors["features.0.weight"] = tensors["features.0.weight"][:, :2]
    tensors["classifier.0.weight"] = tensors["classifier.0.weight"][:, :-1]
    published(monkeypatch, tensors)
    refused(tmp_path, m, r"(?s)another shape: features.0.weight \(4, 2, 3, 3\) gives \(3, 3, 2, 4\), conv1_1.weight "
            r"has \(3, 3, 3, 4\).*another shape: classifier.0.weight \(256, 1567\)", source="torchvision")  # fmt: skip


def test_a_deeper_network_is_no_other(tmp_path, monkeypatch):
    m = map_of("torchvision", "resnet101")
    published(monkeypatch, as_published(m, thin(m)))
    refused(
        tmp_path,
        map_of("torchvision", "resnet50"),
        r"does not fit resnet50 of torchvision .*choose the --model and --source of this file",
    )


def test_nothing_known(tmp_path, monkeypatch):
    m = map_of("torchvision", "resnet50")
    published(monkeypatch, {"encoder.0": np.ones(3), "encoder.1": np.ones(3)})
    refused(tmp_path, m, r"file.x \(NumPy archive\) holds no weights of resnet50 \(its first tensors are encoder.0, "
            r"encoder.1\): give the right --model, one of inception")  # fmt: skip


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_numbers_that_are_none(tmp_path, monkeypatch, wrong):
    m = map_of("torchvision", "resnet50")
    tensors = as_published(m, thin(m))
    tensors["layer2.1.bn2.running_var"][3] = wrong
    published(monkeypatch, tensors)
    refused(tmp_path, m, "file.x holds NaN or infinity in layer2.1.bn2.running_var: use another file")


def test_a_file_is_never_written_over(tmp_path, monkeypatch):
    m = map_of("torchvision", "resnet50")
    published(monkeypatch, as_published(m, thin(m)))
    (tmp_path / "out.h5").write_text("mine")
    with pytest.raises(InputError, match="out.h5 already exists: choose another name, or remove it"):
        run(tmp_path, m)
    assert (tmp_path / "out.h5").read_text() == "mine"


# --- the command -----------------------------------------------------------------------------------------------------


def test_the_list(capsys):
    assert command.main(["--list"]) == 0
    out = capsys.readouterr().out
    for m in MAPS:
        for name, size in m.files:
            (line,) = [line for line in out.splitlines() if f" {name} " in f" {line} " and f"  {m.model} " in line]
            assert size in line and m.source in line and ("not tried on the real file" in line) == (not m.tried)


@pytest.mark.parametrize(
    "argv, message",
    [
        (["none.pth", "o.h5", "--model", "resnet50"], "error: .*none.pth"),
        (["none.pth", "o.h5"], r"error: give SOURCE, OUT.h5 and --model \(or --list\); see --help"),
        (
            ["none.pth", "o.h5", "--model", "alexnet"],
            "error: argument --model: unknown model 'alexnet': choose inception",
        ),
        (["none.pth", "o.h5", "--model", "vgg16", "--classes", "1"], "error: --classes 1: give 2 or more"),
        (["lfs.h5", "o.h5", "--model", "vgg16"], r"error: .*lfs.h5 is a Git LFS pointer of 134 bytes: fetch the file"),
    ],
)
def test_mistakes(tmp_path, monkeypatch, capsys, argv, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lfs.h5").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 553467096\n"
    )
    try:
        status = command.main(argv)
    except SystemExit as leave:
        status = leave.code
    err = capsys.readouterr().err
    assert status == 2 and re.match(message, err) and "Traceback" not in err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["lfs.h5"]


def test_the_command_prints_the_table(tmp_path, monkeypatch, capsys):
    m = map_of("torchvision", "vgg16")
    np.savez(tmp_path / "small.npz", **as_published(m, thin(m)))
    thin_convert = converting.convert
    monkeypatch.setattr(command, "convert", lambda *a, **k: thin_convert(*a, **k, width=WIDTH))
    assert command.main([str(tmp_path / "small.npz"), str(tmp_path / "o.h5"), "--model", "vgg16"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^classifier.0.weight +256x1568 +fc6.weight +1568x256 +O\(CHW\)->\(HWC\)O$", out, re.M)
    assert definition_of(tmp_path / "o.h5")["name"] == "vgg16"


# --- published files -------------------------------------------------------------------------------------------------


def test_the_cifar_resnet20(tmp_path, data_dir):
    """Logits, features and input gradients of PyTorch for 256 images, from the published checkpoint."""
    folder = data_dir / "weights" / "cifar10_resnet20"
    lines = converting.convert(folder / "resnet20-12fca82f.th", tmp_path / "r.h5", model="resnet20")
    assert "resnet20 of pytorch_resnet_cifar10" in lines[-1]
    reference = np.load(folder / "reference.npz")
    network = models.build(None, weights=str(tmp_path / "r.h5")).eval()
    x = reference["images"].astype(np.float32) / 255
    logits, features = network(Tensor(x))
    gradient = attacks.input_gradient(network, x[:8], reference["labels"][:8])
    found = {"logits": logits.data, "features": features.data}
    for name, value in found.items():
        assert np.abs(value - reference[name]).max() <= 1e-4 * np.abs(reference[name]).max()
    given = reference["input_gradient"]
    assert np.abs(gradient - given).max() <= 1e-3 * np.abs(given).max()


def test_the_caffe_lenet_reads_mnist(tmp_path, data_dir):
    folder = data_dir / "weights" / "mnist_lenet"
    converting.convert(folder / "lenet_iter_10000.caffemodel", tmp_path / "l.h5", model="lenet")
    network = models.build(None, weights=str(tmp_path / "l.h5"))
    images = mnist.load(data_dir / "data" / "mnist")
    test = Batches(images, images.split().test, batch=500, size=28)
    right = sum(int((predict(network, x) == y).sum()) for x, y in test.in_order())
    assert len(test) == 10_000 and right == 9905


def test_classify(tmp_path, data_dir, capsys):
    """A digit drawn as a picture; and what can be wrong."""
    from PIL import Image

    source = data_dir / "weights" / "mnist_lenet" / "lenet_iter_10000.caffemodel"
    converting.convert(source, tmp_path / "l.h5", model="lenet")
    images = mnist.load(data_dir / "data" / "mnist")
    index = int(images.split().test[0])
    picture, labels = tmp_path / "digit.png", tmp_path / "labels.txt"
    Image.fromarray(images.read(index)[:, :, 0]).resize((112, 112)).save(picture)
    labels.write_text("\n".join(f"digit {k}" for k in range(10)))
    assert classify.main([str(picture), "--weights", str(tmp_path / "l.h5"), "--labels", str(labels)]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == str(picture) and len(out) == 6
    assert out[1].endswith(f"digit {images.labels[index]}") and float(out[1].split()[0]) > 90
    labels.write_text("one\ntwo")
    for argv, message in (
        (
            [picture, "--weights", tmp_path / "l.h5", "--labels", labels],
            "labels.txt has 2 labels, the network 10 classes",
        ),
        ([picture, "--weights", tmp_path / "none.h5"], "there is no file .*none.h5"),
        ([source, "--weights", tmp_path / "l.h5"], "caffemodel does not decode"),
        ([picture, "--weights", picture], "digit.png is not a whole .h5 file"),
    ):
        assert classify.main([str(a) for a in argv]) == 2
        assert re.match(f"error: .*{message}", capsys.readouterr().err)


# --- what the command loads ------------------------------------------------------------------------------------------


def test_the_command_loads_networks_and_no_training_or_attacks():
    code = "import sys, weights_convert.__main__; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "minisatm.models.vgg" in loaded
    rooms = ("satm", "domain", "attacks", "defences", "evaluation", "results", "run", "data", "train", "evaluate")
    assert not {name.split(".")[1] for name in loaded if name.startswith("minisatm.")} & set(rooms)
