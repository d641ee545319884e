"""How each network starts: He's spread, the last layer, biases, batch norm and the blocks that start as shortcuts."""

import numpy as np
import pytest

from minisatm import Tensor, models
from minisatm.layers import BatchNorm

WIDE = {
    "vgg16": {"width": 1 / 8, "size": 64},
    "resnet50": {"width": 1 / 8, "size": 32},
    "resnet101": {"width": 1 / 8, "size": 32},
    "resnet20": {"width": 1, "size": 16},
    "inception_v3": {"width": 1 / 4, "size": 75},
    "inception_resnet_v2": {"width": 1 / 8, "size": 75},
    "lenet": {"width": 1, "size": 28, "channels": 1},
    **{f"mnist_{k}": {"width": 1 / 2, "size": 28, "channels": 1} for k in "abcd"},
}
LAST = {"vgg16": "fc8", "lenet": "ip2"}


def started(name, **variant):
    return models.build(name, classes=40, rng=11, **WIDE[name], **variant)


def zero_gammas(name, **variant):
    weights = started(name, **variant).parameters()
    return [key for key, w in weights.items() if key.endswith("gamma") and not w.data.any()]


def test_all_networks_are_here():
    assert WIDE.keys() == set(models.NAMES)


@pytest.mark.parametrize("name", WIDE)
def test_weights_have_hes_spread_and_the_last_layer_0_01(name):
    """Each weight array's spread and mean, to five standard errors; the last layer's does not depend on its width."""
    seen = 0
    for key, weight in started(name).parameters().items():
        if not key.endswith("weight") or key.endswith("up.weight"):
            continue
        last = key == f"{LAST.get(name, 'fc')}.weight"
        spread = 0.01 if last else np.sqrt(2 / np.prod(weight.shape[:-1]))
        n = weight.data.size
        assert weight.data.std() == pytest.approx(spread, rel=5 / np.sqrt(2 * n) + 1 / n), key
        assert abs(weight.data.mean()) < 5 * spread / np.sqrt(n), key
        assert np.abs(weight.data).max() > 1.9 * spread or n < 100, key  # normal, not uniform
        seen += last
    assert seen == 1


@pytest.mark.parametrize("name", WIDE)
def test_biases_and_running_statistics(name):
    state, zeros = started(name).state(), zero_gammas(name)
    for key, array in state.items():
        if key.endswith(("bias", "beta", ".mean")):
            assert not array.any(), key
        elif key.endswith((".var", "gamma")):
            assert (array == (0 if key in zeros else 1)).all(), key


@pytest.mark.parametrize(
    "name, last, blocks", [("resnet50", "conv3", 16), ("resnet101", "conv3", 33), ("resnet20", "conv2", 9)]
)
def test_the_last_gamma_of_each_block_is_zero(name, last, blocks):
    stages = models.RESNETS[name].blocks
    expected = [f"stage{s}.{i}.{last}.bn.gamma" for s, count in enumerate(stages, 1) for i in range(count)]
    assert zero_gammas(name) == expected and len(expected) == blocks
    assert zero_gammas(name, zero_gamma=False) == []


@pytest.mark.parametrize(
    "variant, zero", [({}, True), ({"zero_residual": True}, True), ({"zero_residual": False}, False)]
)
def test_residual_blocks_of_inception_start_as_their_shortcuts(variant, zero):
    weights = started("inception_resnet_v2", **variant).parameters()
    ups = [w.data for key, w in weights.items() if key.endswith("up.weight")]
    assert len(ups) == 40 and all(w.any() != zero for w in ups)
    for w in () if zero else ups:
        assert w.std() == pytest.approx(np.sqrt(2 / np.prod(w.shape[:-1])), rel=5 / np.sqrt(2 * w.size) + 1 / w.size)


@pytest.mark.parametrize(
    "name, eps, momentum",
    [("resnet50", 1e-5, 0.1), ("resnet101", 1e-5, 0.1), ("resnet20", 1e-5, 0.1), ("inception_v3", 1e-3, 0.1),
     ("inception_resnet_v2", 1e-3, 0.1)],
)  # fmt: skip
def test_batch_norm_unless_asked_otherwise(name, eps, momentum):
    norms = [module for _, module in started(name).modules() if isinstance(module, BatchNorm)]
    assert {(m.eps, m.momentum, m.unbiased, m.gamma is None) for m in norms} == {(eps, momentum, True, False)}


@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_alone_takes_its_relu_in_both_modes(training):
    x = Tensor(np.random.default_rng(0).standard_normal((4, 3, 3, 2)).astype(np.float32))
    norms = [BatchNorm(2).train(training) for _ in range(2)]
    plain, cut = norms[0](x).data, norms[1](x, relu=True).data
    assert plain.min() < -0.5
    np.testing.assert_allclose(cut, np.maximum(plain, 0), rtol=1e-6)


@pytest.mark.parametrize("name", WIDE)
def test_no_two_weights_are_the_same_draw(name):
    """One generator draws all arrays, one after the other; each seed draws others."""
    starts = [started(name)] + [models.build(name, classes=40, rng=12, **WIDE[name])]
    drawn = [
        w.data.ravel() for net in starts for k, w in net.parameters().items() if k.endswith("weight") and w.data.any()
    ]
    heads = [tuple(np.round(a[:4] / a.std(), 4)) for a in drawn]
    assert len(set(heads)) == len(heads)
