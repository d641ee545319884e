"""The numbers of fingerprints.json are those that PyTorch, torchvision and Keras compute, and they are ours as well."""

from importlib.util import find_spec

import fingerprints
import pytest
from fingerprints import CASES, MODES

for library in ("torch", "torchvision", "keras"):
    if find_spec(library) is None:
        pytest.skip(f"{library} is not installed: the fingerprints are not held against it", allow_module_level=True)
from peers import fingerprint_peers  # noqa: E402  (needs them all)

pytestmark = [
    pytest.mark.peer,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),  # Keras on PyTorch, NumPy 2
]
FROZEN = fingerprints.frozen()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("case", CASES)
def test_fingerprint_is_the_peers(case, mode):
    theirs = fingerprint_peers.theirs(*CASES[case], MODES[mode])
    fingerprints.same(theirs, FROZEN[f"{case} ({mode})"])
    fingerprints.same(fingerprints.ours(*CASES[case], MODES[mode]), theirs)


@pytest.mark.parametrize("case", ["vgg16", "resnet20", "inception_v3", "inception_resnet_v2", "mnist_b"])
def test_a_peer_with_one_weight_changed_has_other_numbers(case, monkeypatch):
    """The comparison itself: a thousandth of one bias must show."""
    rule = fingerprints.rule
    changed = {"vgg16": "fc8.bias"}.get(case, "fc.bias")
    monkeypatch.setattr(fingerprints, "rule", lambda name, shape: rule(name, shape) + 1e-3 * (name == changed))
    with pytest.raises(AssertionError, match="off by"):
        fingerprints.same(fingerprint_peers.theirs(*CASES[case], False), FROZEN[f"{case} (eval)"])
