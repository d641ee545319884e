"""Faults planted in weights_convert, each of which the test nearest to it must catch: `pytest -m slow -k mutant -v`.

Each fault is a text of the source that becomes another, in a copy of the package.
"""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Mutant:
    """`before` occurs in the file once and becomes `after`; `tests` are a file of tests and, after a space, its -k."""

    name: str
    file: str
    before: str
    after: str
    tests: str


PRINT, THEANO, PREFIX = "convert_fingerprints", "convert_theano", "convert_prefixes"
HARM, READ = "convert_harm", "convert_readers"
ENTRY, KERAS, VGGFACE = "maps/entry.py", "maps/keras_applications.py", "maps/keras_vggface.py"
CAFFE, LENET, TORCHVISION, INCEPTION = "maps/caffe.py", "maps/lenet.py", "maps/torchvision.py", "maps/inception.py"
MUTANTS = (
    # means, channels and constants of the sources
    Mutant("caffe-rgb-for-bgr", ENTRY, "bgr=True", "bgr=False", f"{PRINT} VGG_FACE"),
    Mutant("caffe-mean-as-rgb", ENTRY, "m / 255 for m in mean)", "m / 255 for m in mean[::-1])", f"{PRINT} VGG_FACE"),
    Mutant("caffe-std-of-256", ENTRY, "(1 / 255,) * 3", "(1 / 256,) * 3", f"{PRINT} keras.applications-vgg16"),
    Mutant("caffe-imagenet-mean-of-faces", CAFFE, "caffe_input(CAFFE_MEAN)", "caffe_input(VGG_FACE_MEAN)",
           f"{PRINT} VGG_ILSVRC"),
    Mutant("caffe-faces-without-dropout", CAFFE, '2622, dict(dropout=0.5', '2622, dict(dropout=0.0',
           f"{PRINT} VGG_FACE"),
    Mutant("caffe-lenet-divides-by-255", LENET, "256 / 255", "255 / 255", f"{PRINT} lenet"),
    Mutant("keras-resnet-eps", KERAS, "eps=1.001e-5", "eps=1e-5", f"{PRINT} keras.applications-resnet50"),
    Mutant("keras-resnet-stride", KERAS, 'stride_in="1x1"', 'stride_in="3x3"', f"{PRINT} keras.applications-resnet50"),
    Mutant("keras-resnet-momentum", KERAS, "momentum=0.01", "momentum=0.1", f"{PRINT} keras.applications-resnet50"),
    Mutant("keras-resnet-n-minus-1", KERAS, "unbiased=False", "unbiased=True", f"{PRINT} keras.applications-resnet101"),
    Mutant("vggface2-mean-of-vggface", VGGFACE, "caffe_input(RESNET_MEAN)", "caffe_input(VGG_MEAN)",
           f"{PRINT} vggface-resnet50"),
    Mutant("vggface2-eps", VGGFACE, "eps=1e-3", "eps=1.001e-5", f"{PRINT} vggface-resnet50"),
    Mutant("vggface2-n-minus-1", VGGFACE, "unbiased=False", "unbiased=True", f"{PRINT} vggface-resnet50"),
    Mutant("vggface2-stem-padding", VGGFACE, 'stem_padding="same", ', "", f"{PRINT} vggface-resnet50"),
    Mutant("vggface2-pool-padding", VGGFACE, 'pool_padding="valid"', "pool_padding=1", f"{PRINT} vggface-resnet50"),
    Mutant("vggface-mean-digit", VGGFACE, "104.7624, 129.1863", "104.7642, 129.1863", f"{PRINT} vggface-vgg16"),
    Mutant("keras-inception-counts-the-padding", INCEPTION, "count_padding=False", "count_padding=True",
           f"{PRINT} keras.applications-inception_v3"),
    Mutant("torch-inception-n", INCEPTION, "unbiased=True", "unbiased=False", f"{PRINT} torchvision-inception"),
    Mutant("inception-std-of-one", INCEPTION, "std=(0.5,) * 3", "std=(1.0,) * 3", f"{PRINT} inception_v3"),
    # names and layouts
    Mutant("mean-and-var-exchanged", ENTRY, '"running_mean", "running_var")', '"running_var", "running_mean")',
           f"{PRINT} torchvision-resnet50"),
    Mutant("keras-gamma-and-beta-exchanged", ENTRY, '= ("gamma", "beta", ', '= ("beta", "gamma", ',
           f"{PRINT} keras.applications-resnet50"),
    Mutant("vggface2-reduce-and-increase-exchanged", VGGFACE, '"project": "1x1_proj"', '"project": "1x1_reduce"',
           "convert names_every_weight"),
    Mutant("torch-kernels-turned-over", "convert.py", "array.transpose(2, 3, 1, 0)\n    if",
           "array.transpose(3, 2, 1, 0)\n    if", f"{PRINT} torchvision-vgg16"),
    Mutant("flattened-rows-channels-first", "convert.py", "transpose(2, 3, 1, 0)  # (O", "transpose(1, 2, 3, 0)  # (O",
           f"{PRINT} VGG_FACE"),
    Mutant("torch-dense-not-turned", "convert.py", "return array.T", "return array", f"{PRINT} torchvision-resnet50"),
    Mutant("last-layer-drawn-though-it-fits", "convert.py", "classes != published)", "classes == published)",
           "convert another_number_of_classes"),
    Mutant("keras-1-variance-is-the-mean", "maps/keras_names.py", '"running_std": "moving_variance"',
           '"running_std": "moving_mean"',
           "convert names_of_keras_1"),
    # Theano
    Mutant("theano-kernels-mirrored-only", "readers/keras_layout.py", "[::-1, ::-1]", "[:, ::-1]", THEANO),
    Mutant("theano-turned-for-any-backend", "readers/keras_layout.py", 'if backend == "theano"', "if backend", THEANO),
    Mutant("theano-rows-stay", "readers/keras_layout.py", "if first or flattens", "if False and flattens", THEANO),
    Mutant("theano-backend-of-the-config-unread", "readers/keras.py", 'if not said["backend"] and', "if False and",
           THEANO),
    # prefixes and sources
    Mutant("prefix-of-an-attacker", "prefixes.py", "set(words(prefix)) <= USUAL]", "set(words(prefix)) > USUAL]",
           PREFIX),
    Mutant("prefix-taken-blindly", "prefixes.py", "len(usual) > 1 and not", "False and not", PREFIX),
    Mutant("prefix-rivals-stay", "convert.py", "or any(n.startswith(rival) for rival in rivals)", "", PREFIX),
    Mutant("caffe-takes-the-first-source", "convert.py", "len(fits) > 1 and len(same_classes) != 1", "False", PREFIX),
    # PyTorch's tensors
    Mutant("neg-flag-ignored", "readers/pytorch.py", "-array if view.negative else array", "array", f"{HARM} neg"),
    Mutant("conj-flag-ignored", "readers/pytorch.py", 'if flag != "neg")', 'if flag == "")', f"{HARM} plain"),
    Mutant("bfloat16-shifted-by-15", "readers/checks.py", "<< 16", "<< 15", READ),
    Mutant("offset-of-a-view-ignored", "readers/pytorch.py", "storage.start + view.offset :", "storage.start :", READ),
    Mutant("views-may-reach-outside", "readers/pytorch.py", "offset + last >= storage.count", "offset + last < 0",
           "convert_refusals its_own_storage"),
    Mutant("big-endian-ignored", "readers/pytorch.py", '">" if big else "<"', '"<"', READ),
    # budgets
    Mutant("steps-not-counted", "readers/checks.py", "self.left -= steps", "self.left -= 0", f"{HARM} steps"),
    Mutant("arguments-not-counted", "readers/pickles.py", "self.work(sum(map(length, (arguments, *arguments))))",
           "pass", f"{HARM} steps"),
    Mutant("long-names-pass", "readers/checks.py", "if len(name) > LONGEST_NAME", "if len(name) < 0",
           f"{HARM} long_names"),
    Mutant("memory-not-counted", "readers/checks.py", "self.left -= count", "self.left -= 0",
           "convert_refusals proportion"),
    Mutant("groups-without-end", "readers/keras.py", "len(parts) > DEEPEST", "False", f"{HARM} themselves"),
    Mutant("locks-called-damage", "readers/checks.py", "    errno.EAGAIN: ", "    -errno.EAGAIN: ", f"{HARM} locked"),
    Mutant("nan-written", "convert.py", "not np.isfinite(array).all()", "False", "convert numbers_that"),
)  # fmt: skip


def run(place, tests):
    """The nearest tests, in the copy: (exit status, what they printed)."""
    file, _, words = tests.partition(" ")
    argv = [sys.executable, "-m", "pytest", f"tests/test_{file}.py", "-x", "-q", "-p", "no:cacheprovider"]
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(place)}
    done = subprocess.run([*argv, *(["-k", words] if words else [])], cwd=place, capture_output=True, text=True,
                          check=False, env=environment)  # fmt: skip
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def copy(tmp_path):
    shutil.copytree(
        ROOT / "weights_convert", tmp_path / "weights_convert", ignore=shutil.ignore_patterns("__pycache__")
    )
    for name in ("minisatm", "tests", "pyproject.toml"):
        (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.name)
def test_mutant_of_weights_convert_is_caught(mutant, copy):
    path = copy / "weights_convert" / mutant.file
    source = path.read_text()
    assert source.count(mutant.before) == 1, f"{mutant.before!r} occurs {source.count(mutant.before)} times"
    path.write_text(source.replace(mutant.before, mutant.after))
    status, printed = run(copy, mutant.tests)
    assert status == 1, printed  # 1: a test failed; a file that cannot be imported gives another status
    assert not any(slip in printed for slip in ("NameError", "SyntaxError", "ImportError")), printed


@pytest.mark.slow
@pytest.mark.parametrize("tests", sorted({m.tests for m in MUTANTS}))
def test_control_of_a_mutant_passes(tests, copy):
    """The same tests pass on the code as it is."""
    status, printed = run(copy, tests)
    assert status == 0, printed


def test_there_are_enough_of_them():
    assert len(MUTANTS) >= 25 and len({m.name for m in MUTANTS}) == len(MUTANTS)
