"""weights_convert/README.md: its commands, tables and code work as printed, and so does its recipe for a new source."""

import functools
import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import test_convert
from PIL import Image
from weight_files import blob, caffe_layer

from minisatm import Tensor, classify, models
from minisatm.models.files import definition_of
from weights_convert import __main__ as command
from weights_convert import convert as converting
from weights_convert.maps import MAPS, caffe

ROOT = Path(__file__).parent.parent
README = (ROOT / "weights_convert" / "README.md").read_text(encoding="utf-8")
BLOCKS = [textwrap.dedent(b).strip() for b in re.findall(r"(?:^ {4}.*\n|^\n(?=\n* {4}))+", README, re.M)]


def block(*words):
    """The one block of code in the README that has these words."""
    (text,) = [b for b in BLOCKS if all(word in b for word in words)]
    return text


def caffe_file(network):
    """A full-size .caffemodel of LeNet, as Caffe lays it out."""
    arrays = test_convert.as_published(next(m for m in caffe.MAPS if m.model == "lenet"), network)
    layers = ("conv1", "conv2", "ip1", "ip2")
    return b"".join(caffe_layer(n, blob(arrays[f"{n}/0"]), blob(arrays[f"{n}/1"])) for n in layers)


@pytest.fixture
def files(here, monkeypatch):
    """The README's published files in an empty directory: LeNet in full size, thin networks for the large ones."""
    lenet = models.build("lenet", classes=10, size=28, channels=1, rng=3, mean=(0.0,), std=(256 / 255,))
    (here / "lenet_iter_10000.caffemodel").write_bytes(caffe_file(lenet))
    for name in re.findall(r"weights_convert (\S+_kernels\.h5|vgg16\S+\.pth) ", README):
        (m,) = [m for m in MAPS if name in dict(m.files)]
        np.savez(here / "f.npz", **test_convert.as_published(m, test_convert.thin(m, m.classes)))
        (here / "f.npz").rename(here / name)
    (here / "labels.txt").write_text("\n".join(f"class {k}" for k in range(1000)))
    Image.fromarray(np.zeros((60, 80, 3), np.uint8)).save(here / "photo.jpg")
    whole = converting.convert
    thin = functools.partial(whole, width=test_convert.WIDTH)
    monkeypatch.setattr(command, "convert", lambda *a, model, **k: (whole if model == "lenet" else thin)(
        *a, model=model, **k))  # fmt: skip
    return here


def test_the_commands_and_the_program_work_as_printed(files, capsys):
    printed = {}
    for line in block("weights_convert --list").splitlines() + [block("minisatm.classify")]:
        _, _, module, *argv = shlex.split(line)
        assert {"weights_convert": command, "minisatm.classify": classify}[module].main(argv) == 0, line
        printed[line] = capsys.readouterr().out
    lenet = next(line for line in printed if "lenet.h5" in line)
    assert printed[lenet].strip() == block("lenet.h5: lenet of caffe")
    assert definition_of("resnet50.h5")["classes"] == 1000 and definition_of("vgg16.h5")["classes"] == 8
    assert len(re.findall(r"^ +[\d.]+ %  class \d+$", next(t for t in printed.values() if "photo.jpg" in t), re.M)) == 5
    names = {}
    exec(block("models.build(None"), names)
    assert names["logits"].shape == (1, 1000)


def test_the_tables_say_what_is_there():
    lines = converting.listing()
    for line in block("resnet20-12fca82f.th").splitlines():
        assert line in lines
    sources = re.findall(r"^\| ([\w.-]+) \| ([\w, ()]+) \| [^|]+\|$", README.split("## Known files")[1], re.M)
    for source in {m.source for m in MAPS}:
        (words,) = [networks for name, networks in sources if name == source]
        assert {m.model for m in MAPS if m.source == source} == set(re.findall(r"\w+\d\w*|lenet", words))
    options = set(re.findall(r"^\| `(--\w+)", README, re.M))
    assert options == {o for o in command.parser()._option_string_actions if o.startswith("--")} - {"--help", "--list"}


@pytest.mark.parametrize(
    "message", re.findall(r"`(?:\.\.\. )?([a-z][^`]+)`", README.split("## Errors")[1].split("\nTwo")[0])
)
def test_the_errors_exist(message):
    """Every message of the table stands in the program, but for what depends on the file."""
    if message.startswith(("torch.save", "resnet50")):
        return
    source = "".join(p.read_text() for p in (ROOT / "weights_convert").rglob("*.py"))
    for part in re.split(r"resnet50|torchvision|\d+|\.\.\.", message):
        assert part.strip(" ()") in source


# --- a new source ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A copy of the package where steps 2 and 3 were followed, and the file my_lenet.pth."""
    place = tmp_path_factory.mktemp("lab")
    shutil.copytree(ROOT / "weights_convert", place / "weights_convert", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("minisatm", "tests", "pyproject.toml"):
        (place / name).symlink_to(ROOT / name)
    (place / "weights_convert/maps/my_lab.py").write_text(block("My lab's LeNet") + "\n")
    maps = place / "weights_convert/maps/__init__.py"
    docstring, _, rest = maps.read_text().partition("\n\n")
    new = block("*my_lab.MAPS")
    assert rest.strip() == new.replace(" my_lab,", "").replace(" *my_lab.MAPS,", ""), (
        "the README's step 3 is out of date"
    )
    maps.write_text(f"{docstring}\n\n{new}\n")
    rng = np.random.default_rng(0)
    tensors = {}
    for line in block("features.0.weight (20").splitlines():
        name, shape = line.split(" ", 1)
        shape = tuple(map(int, re.findall(r"\d+", shape)))
        tensors[name] = (rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)
    np.savez(place / "f.npz", **tensors)  # a file is recognised by its content, not by its name
    (place / "f.npz").rename(place / "my_lenet.pth")
    return place, tensors


def run(place, *argv):
    """The output of python ARGV in the lab."""
    done = subprocess.run([sys.executable, *argv], cwd=place, capture_output=True, text=True, check=False,
                          env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(place)})  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_names_of_a_file_are_printed(lab):
    assert run(lab[0], "-c", block("read(", "print(name")).strip() == block("features.0.weight (20")


def test_the_tests_of_all_maps_run_on_a_new_one(lab):
    output = run(lab[0], *shlex.split(block("-k my-lab"))[1:], "-p", "no:cacheprovider", "-rA")
    assert "2 passed" in output and "PASSED tests/test_convert.py::test_there_and_back[my-lab-lenet]" in output


def test_a_file_of_the_new_source_computes_the_same(lab):
    place, tensors = lab
    output = run(place, *shlex.split(block("weights_convert my_lenet.pth"))[1:])
    assert "my_lenet.h5: lenet of my-lab, 8 of 8 arrays" in output
    network = models.build(None, weights=str(place / "my_lenet.h5")).eval()
    x = np.random.default_rng(1).random((2, 28, 28, 1), np.float32)
    expected = torch_lenet(x.transpose(0, 3, 1, 2).astype(np.float64), tensors)
    logits = network(Tensor(x))[0].data
    assert np.abs(logits - expected).max() <= 1e-4 * np.abs(expected).max()


def torch_lenet(x, t):
    """What PyTorch computes, channels first: two 5x5 convolutions with 2x2 max pools, then two dense layers."""
    x = (x - 0.1307) / 0.3081
    for layer in ("features.0", "features.2"):
        windows = np.lib.stride_tricks.sliding_window_view(x, (5, 5), axis=(2, 3))
        x = np.einsum("nchwij,ocij->nohw", windows, t[f"{layer}.weight"]) + t[f"{layer}.bias"][:, None, None]
        n, c, h, w = x.shape
        x = x.reshape(n, c, h // 2, 2, w // 2, 2).max(axis=(3, 5))
    hidden = np.maximum(x.reshape(len(x), -1) @ t["classifier.0.weight"].T + t["classifier.0.bias"], 0)
    return hidden @ t["classifier.2.weight"].T + t["classifier.2.bias"]
