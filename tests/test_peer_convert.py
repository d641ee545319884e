"""Published files, as Keras and torchvision write them, converted: our networks compute what theirs do, in float64."""

import functools
from importlib.util import find_spec

import numpy as np
import pytest

for library in ("torch", "torchvision", "keras"):
    if find_spec(library) is None:
        pytest.skip(f"{library} is not installed: converted files are not compared with it", allow_module_level=True)
from peers import published  # noqa: E402  (needs them all)
from peers.published import CASES, KERAS, TORCH, VGGFACE, Case  # noqa: E402

from minisatm import models  # noqa: E402
from minisatm.models.files import definition_of  # noqa: E402

pytestmark = [
    pytest.mark.peer,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),  # Keras on PyTorch, NumPy 2
]

TOLERANCE = 1e-9  # of max|a - b| / max|b|
QUICK = (
    Case(KERAS, "resnet50", ".keras", other=64),
    Case(KERAS, "inception_v3", ".weights.h5", 299, 75),
    Case(TORCH, "resnet50", ".pth", other=64),
    Case(VGGFACE, "resnet50", "Keras 2 .h5", other=198),
)


def within(errors, wanted):
    assert {"features", "input gradient", *wanted} <= errors.keys()
    assert max(errors.values()) <= TOLERANCE, errors


@pytest.mark.parametrize("case", QUICK, ids=str)
def test_a_converted_file_computes_the_same(case, tmp_path):
    plan = [(case.other, False, 2), (case.other, True, 4 if case.other < 100 else 2)]
    for _, training, errors in published.steps(case, tmp_path, plan):
        within(errors, ["logits", "running statistics"] if training else ["logits"])


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_source_and_format(case, tmp_path):
    """Eval mode at the true size and at another; train mode, where that is something else, at one of them."""
    if case.format == ".safetensors":
        pytest.importorskip("safetensors")
    plan = [(case.size, False, 2)]
    plan += [(case.other, False, 2)] if case.other else []
    if case.network != "vgg16":
        plan += [(case.other, True, 4) if case.other else (case.size, True, 2)]
    for _, training, errors in published.steps(case, tmp_path, plan):
        wanted = [] if case.network.endswith("notop") else ["logits"]
        within(errors, [*wanted, "running statistics"] if training else wanted)


# The comparison itself: what is a little wrong must show


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """By source: the peer at 64 pixels, and its converted file. Each is made when it is first asked for."""

    @functools.cache
    def of(source):
        case = next(case for case in QUICK if (case.source, case.network) == (source, "resnet50"))
        folder = tmp_path_factory.mktemp("made")
        return *published.published(case, folder, case.other), folder

    return of


def off(made, training, change, swapped=()):
    """The errors where the definition has another field, or two arrays have changed places."""
    theirs, out, folder = made
    ours = models.build(**definition_of(out) | {"size": theirs.size} | change, weights=out).astype(np.float64)
    state = ours.state()
    ours.set_state(state | {a: state[b].copy() for a, b in zip(swapped, reversed(swapped))})
    return published.compare(ours, theirs, count=4 if training else 2, training=training, folder=folder)


WRONG = [
    (KERAS, False, {"eps": 1e-5}),
    (KERAS, False, {"bgr": False}),
    (KERAS, True, {"unbiased": True}),
    (TORCH, False, {"stride_in": "1x1"}),
    (TORCH, False, {"mean": (0.485, 0.456, 0.407)}),
    (TORCH, True, {"unbiased": False}),
    (TORCH, True, {"momentum": 0.101}),
]


@pytest.mark.parametrize("source, training, change", WRONG, ids=str)
def test_a_wrong_definition_is_seen(made, source, training, change):
    errors = off(made(source), training, change)
    assert errors["running statistics" if training else "logits"] > TOLERANCE
    if training:  # nothing else shows it
        assert max(errors["logits"], errors["input gradient"]) <= TOLERANCE


@pytest.mark.parametrize(
    "one, two, training", [("gamma", "beta", False), ("gamma", "var", False), ("mean", "var", True)]
)
def test_swapped_arrays_are_seen(made, one, two, training):
    errors = off(made(TORCH), training, {}, [f"stage4.1.conv2.bn.{word}" for word in (one, two)])
    assert errors["running statistics" if training else "logits"] > 1e-4
