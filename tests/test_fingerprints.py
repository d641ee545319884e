"""Every network, with each field of its definition, gives the numbers that PyTorch or Keras gave for the same weights.

The numbers are in fingerprints.json. Where PyTorch, torchvision and Keras are installed, this line makes them anew:

    KERAS_BACKEND=torch PYTHONPATH=.:tests python -m peers.fingerprint_peers

and test_peer_fingerprints.py holds the file against them.
"""

import fingerprints
import pytest
from fingerprints import CASES, MODES, VARIANTS

from minisatm import models
from minisatm.layers import Conv2D

FROZEN = fingerprints.frozen()
ELSEWHERE = {"zero_gamma", "zero_residual", "exact"}  # see test_starting_weights.py, and the last test here
SAME_CODE = {"resnet101": "resnet50", "resnet20": "resnet50", "inception_resnet_v2": "inception_v3"}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("case", CASES)
def test_fingerprint(case, mode):
    fingerprints.same(fingerprints.ours(*CASES[case], MODES[mode]), FROZEN[f"{case} ({mode})"])


def test_every_network_and_every_field_has_a_fingerprint():
    assert VARIANTS.keys() == set(models.NAMES)
    assert FROZEN.keys() == {f"{case} ({mode})" for case in CASES for mode in MODES}
    for name in models.NAMES:
        changed = {field for variant in VARIANTS[SAME_CODE.get(name, name)] for field in variant}
        assert set(models.FIELDS[name]) - ELSEWHERE <= changed, name


def plain(name, variant):
    """The definition without the fields that the case is about."""
    return {k: v for k, v in variant.items() if k == "blocks"} if name == "resnet50" else {}


def test_a_field_shows_where_it_should():
    """Each definition has numbers of its own, or its fingerprint would be blind to the field."""
    for case, (name, variant) in CASES.items():
        usual = fingerprints.shown(name, plain(name, variant))
        fields = variant.keys() - {"blocks"}
        if usual not in CASES or not fields or fields == {"batch_norm"}:
            continue
        for mode in MODES:
            hidden = {"momentum", "unbiased", "dropout"} if mode == "eval" else set()
            off = fingerprints.differences(FROZEN[f"{case} ({mode})"], FROZEN[f"{usual} ({mode})"])
            assert max(off.values()) < 1e-12 if fields <= hidden else max(off.values()) > 1e-4, (case, mode, off)


@pytest.mark.parametrize("name", [n for n in models.NAMES if "exact" in models.FIELDS[n]])
def test_exact_reaches_every_convolution(name):
    for exact in (False, True):
        network = models.build(name, **{**fingerprints.THIN[name], "exact": exact})
        assert {m.exact for _, m in network.modules() if isinstance(m, Conv2D)} <= {exact}
