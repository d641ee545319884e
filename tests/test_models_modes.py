"""Networks: train and eval mode, state, and the gradients of whole networks by finite differences."""

import numpy as np
import pytest
from model_cases import SMALL, awake, pixels, small

from minisatm import Tensor, grad, no_grad, ops
from minisatm.layers import BatchNorm, Dropout, seed_dropout


def test_mode_brings_back_each_modules_own_mode():
    network = small("resnet20")
    network.train()
    network.stem.bn.training = False
    network.stage2[1].eval()
    before = {name: module.training for name, module in network.modules()}
    assert set(before.values()) == {True, False}
    for training in (True, False):
        with network.mode(training):
            assert all(module.training == training for _, module in network.modules())
        assert {name: module.training for name, module in network.modules()} == before
    with pytest.raises(ZeroDivisionError), network.mode(False):
        _ = 1 / 0
    assert {name: module.training for name, module in network.modules()} == before


def test_modes_belong_to_the_network_not_to_the_process():
    one, other = small("resnet20"), small("resnet20")
    one.eval()
    assert all(module.training for _, module in other.modules())


def test_batch_norm_of_one_module_can_stay_in_eval_mode():
    network = awake(small("resnet20")).train()
    network.stage1[0].eval()
    before = {name: a.copy() for name, a in network.buffers().items()}
    network(Tensor(pixels(network, 4)))
    for name, array in network.buffers().items():
        assert np.array_equal(array, before[name]) == name.startswith("stage1.0."), name


@pytest.mark.parametrize("name", SMALL)
def test_crafting_leaves_weights_and_buffers_bit_identical(name):
    network = awake(small(name)).train()
    before = {key: a.tobytes() for key, a in network.state().items()}
    versions = {key: t.version for key, t in network.parameters().items()}
    x = Tensor(pixels(network), requires_grad=True)
    with network.mode(False):
        loss = ops.softmax_cross_entropy(network(x)[0], Tensor(np.array([0, 3])), reduction="sum")
        (gx,) = grad(loss, [x])
    assert gx.any() and gx.shape == x.shape
    assert {key: a.tobytes() for key, a in network.state().items()} == before
    assert {key: t.version for key, t in network.parameters().items()} == versions
    assert all(t.grad is None for t in network.parameters().values()) and x.grad is None


def test_train_mode_moves_every_buffer_and_under_no_grad_too():
    network = small("resnet50").train()
    before = network.buffers()
    with no_grad():
        network(Tensor(pixels(network, 4)))
    assert all(not np.array_equal(array, before[name]) for name, array in network.buffers().items())


@pytest.mark.parametrize("unbiased", [True, False])
@pytest.mark.parametrize("momentum", [0.1, 0.01, 1.0])
def test_running_statistics(unbiased, momentum):
    rng = np.random.default_rng(0)
    layer = BatchNorm(3, momentum=momentum, unbiased=unbiased)
    layer.astype(np.float64)
    mean, var = np.zeros(3), np.ones(3)
    for _ in range(3):
        x = 2 + 3 * rng.standard_normal((2, 2, 3, 3))
        layer(Tensor(x))
        mean = (1 - momentum) * mean + momentum * x.mean(axis=(0, 1, 2))
        var = (1 - momentum) * var + momentum * x.var(axis=(0, 1, 2), ddof=1 if unbiased else 0)
    np.testing.assert_allclose(layer.mean, mean, rtol=1e-13)
    np.testing.assert_allclose(layer.var, var, rtol=1e-13)


def test_running_statistics_keep_their_dtype_and_stand_one_sample():
    layer = BatchNorm(2)
    layer(Tensor(np.ones((1, 2), np.float32)))
    assert layer.mean.dtype == layer.var.dtype == np.float32
    assert np.isfinite(layer.var).all()


def test_the_definition_reaches_every_batch_norm():
    network = small("resnet50", eps=1e-3, momentum=0.01, unbiased=False)
    norms = [module for _, module in network.modules() if isinstance(module, BatchNorm)]
    assert len(norms) == 53
    assert {(m.eps, m.momentum, m.unbiased) for m in norms} == {(1e-3, 0.01, False)}


def test_dropout_only_in_train_mode_and_only_from_the_given_draws():
    network = small("vgg16")
    x = Tensor(pixels(network))
    with pytest.raises(RuntimeError, match="call seed_dropout"):
        network(x)
    outs = []
    for seed in (1, 1, 2):
        seed_dropout(network, np.random.default_rng(seed))
        outs.append(network(x)[0].data)
    assert np.array_equal(outs[0], outs[1]) and not np.array_equal(outs[0], outs[2])
    network.eval()
    assert np.array_equal(network(x)[0].data, network(x)[0].data)
    assert sum(isinstance(module, Dropout) for _, module in network.modules()) == 2


@pytest.mark.parametrize("name", SMALL)
def test_state_goes_round(name):
    network, other = awake(small(name)).eval(), small(name, rng=9).eval()
    x = Tensor(pixels(network))
    assert not np.array_equal(network(x)[0].data, other(x)[0].data)
    other.set_state(network.state())
    assert list(other.state()) == list(network.state()) == [*network.parameters(), *network.buffers()]
    for got, want in zip(other(x), network(x)):
        assert np.array_equal(got.data, want.data)
    copied = other.state()
    for key, array in network.state().items():
        assert not np.shares_memory(array, copied[key]), key


def test_state_of_another_shape_is_refused():
    network = small("resnet20")
    state = {**network.state(), "stage1.0.conv1.bn.mean": np.zeros(7, np.float32)}
    with pytest.raises(ValueError, match=r"stage1\.0\.conv1\.bn\.mean has shape \(7,\), the network needs \(4,\)"):
        network.set_state(state)


def test_setting_weights_counts_as_a_new_version():
    """A backward pass through the old weights would be wrong, so it is refused."""
    network = small("resnet20").eval()
    loss = ops.sum(network(Tensor(pixels(network)))[0])
    network.set_state(network.state())
    with pytest.raises(RuntimeError, match="changed after the forward pass"):
        loss.backward()


def test_frozen_weights_get_no_gradient():
    network = awake(small("resnet20")).eval()
    x = Tensor(pixels(network), requires_grad=True)
    network.requires_grad(False)
    ops.sum(network(x)[0]).backward()
    assert x.grad is not None and all(t.grad is None for t in network.parameters().values())
    network.requires_grad(True)
    network.stage2[0].requires_grad(False)
    ops.sum(network(x)[0]).backward()
    for name, tensor in network.parameters().items():
        assert (tensor.grad is None) == name.startswith("stage2.0."), name
    network.zero_grad()
    assert all(t.grad is None for t in network.parameters().values())


def test_a_frozen_network_on_plain_images_records_nothing():
    network = small("resnet20").eval().requires_grad(False)
    assert not network(Tensor(pixels(network)))[0].requires_grad


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", ["vgg16", "resnet50", "resnet20", "lenet"])
def test_finite_differences_through_the_whole_network(name, training):
    """<gradient, v> for a random direction v of each of a few weights, and of the image, by central differences."""
    # 64 pixels leave ResNet50's last batch norms 2x2x3 values each; with 32 they would be of three values, all kinks
    changes = {"vgg16": {"dropout": 0.0}, "resnet50": {"size": 64}}.get(name, {})
    network = awake(small(name, **changes).astype(np.float64)).train(training)
    network.parameters()[f"{network.top}.weight"].data *= 30  # 0.01 at the start: dull logits
    x = Tensor(pixels(network, 3, dtype=np.float64), requires_grad=True)
    labels = Tensor(np.array([0, 2, 4]))
    rng = np.random.default_rng(6)
    cotangent = Tensor(rng.standard_normal((3, network.feature_width)))

    def loss():
        logits, features = network(x)
        return ops.softmax_cross_entropy(logits, labels, reduction="sum") + ops.sum(features * cotangent)

    names = list(network.parameters())
    picked = {n: network.parameters()[n] for n in (*names[:3], *names[len(names) // 2 :][:4], *names[-2:])}
    loss().backward()
    for what, tensor in {"x": x, **picked}.items():
        start, v = tensor.data, rng.standard_normal(tensor.shape)
        v *= 1e-7 / np.abs(v).max()
        with no_grad():
            tensor.data = start + v
            above = float(loss())
            tensor.data = start - v
            below = float(loss())
        tensor.data = start
        expected = float((tensor.grad * v).sum())
        size = np.abs(tensor.grad).max() * np.abs(v).sum()  # what the sum could be: it may cancel by chance
        assert tensor.grad.any(), what
        assert abs((above - below) / 2 - expected) < 1e-6 * size, what
