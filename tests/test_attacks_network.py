"""An attack leaves the network as it was, and other functions than networks of ours can be attacked."""

import numpy as np
import pytest
from attack_cases import STEPS, VARIANTS, Dense, images, run

from minisatm import InputError, Tensor, attacks, backend, grad, ops, tape
from minisatm.kernels import numpy_kernels


def test_several_networks_average_their_logits(dense, golden):
    other = Dense({k: golden[k] * (1.5 if k == "W2" else 1) for k in ("W1", "b1", "W2", "b2")})
    x, y = golden["x"], golden["y"]
    both = attacks.loss_gradient([dense, other], x, y)
    logits = (dense(Tensor(x))[0].data + other(Tensor(x))[0].data) / 2
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    g = p / p.sum(axis=1, keepdims=True) - np.eye(4, dtype=np.float32)[y]
    expected = sum(attacks.logits_and_vjp(n, x)[1](g.astype(np.float32) / 2) for n in (dense, other))
    np.testing.assert_allclose(both, expected, rtol=0, atol=1e-7)
    one_step = attacks.momentum_fgsm([dense, other], x, y, epsilon=0.1, step=0.1, steps=1)
    np.testing.assert_allclose(one_step, np.clip(x + 0.1 * np.sign(both), 0, 1), rtol=0, atol=1e-7)
    assert not np.array_equal(attacks.momentum_fgsm([dense, other], x, y), attacks.momentum_fgsm(dense, x, y))


@pytest.mark.parametrize("name", sorted(attacks.ATTACKS))
def test_any_function_with_a_vjp_can_be_attacked(dense, golden, name):
    """(logits, vjp) in place of a network: the same examples."""

    def function(x):
        image = Tensor(x, requires_grad=True)
        logits = dense(image)[0]
        return logits.data, lambda g: grad(logits, [image], g, keep=True)[0]

    x, y = golden["x"], golden["y"]
    options = STEPS.get(name, {})
    found, expected = (run(name, network, x, y, **options) for network in (function, dense))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_a_network_as_a_function(resnet):
    """For other people's tools, and for these attacks: in eval mode, whatever mode it is in."""
    x, y = images(3)
    resnet.train()
    logits, vjp = resnet.as_function()(x)
    np.testing.assert_array_equal(logits, attacks.logits_of(resnet, x))
    g = np.random.default_rng(0).standard_normal(logits.shape).astype(np.float32)
    assert vjp(g).shape == x.shape and np.array_equal(vjp(g), vjp(g))
    moved = attacks.fgsm(resnet.as_function(), x, y)
    clear = np.abs(attacks.input_gradient(resnet, x, y)) > 1e-6
    np.testing.assert_array_equal(moved[clear], attacks.fgsm(resnet, x, y)[clear])
    assert resnet.training


def test_input_gradient_of_a_sum(resnet):
    """Twice the same image: the gradient of each is that of the image alone, not half of it."""
    x, y = images(1)
    alone = attacks.input_gradient(resnet, x, y)
    twice = attacks.input_gradient(resnet, np.concatenate([x, x]), np.concatenate([y, y]))
    assert np.abs(twice - alone).max() <= 1e-5 * np.abs(alone).max()


@pytest.mark.parametrize("craft_mode", ["eval", "train"])
@pytest.mark.parametrize("name", sorted(attacks.ATTACKS))
def test_crafting_leaves_the_network_as_it_was(resnet, name, craft_mode):
    network = resnet
    kept = np.float32(0.25)
    for t in network.parameters().values():
        t.grad = np.full(t.shape, kept)
    modules = [module for _, module in network.modules()]
    for i, module in enumerate(modules):
        module.training = i % 3 == 0  # a mixture that neither train() nor eval() would give back
    state = {n: a.tobytes() for n, a in network.state().items()}
    versions = {n: t.version for n, t in network.parameters().items()}
    x, y = images()
    try:
        run(name, network, x, y, craft_mode=craft_mode, **STEPS.get(name, {}))
        assert {n: a.tobytes() for n, a in network.state().items()} == state
        assert {n: t.version for n, t in network.parameters().items()} == versions
        assert all((t.grad == kept).all() for t in network.parameters().values())
        assert all(t.requires_grad for t in network.parameters().values())
        assert [module.training for module in modules] == [i % 3 == 0 for i in range(len(modules))]
    finally:
        network.train().zero_grad()


def test_modes_and_buffers_come_back_after_an_error(resnet):
    resnet.train()
    resnet.stem.training = False
    state = {n: a.tobytes() for n, a in resnet.state().items()}
    x, _ = images(2)
    with pytest.raises(InputError):
        attacks.fgsm(resnet, x, np.array([0, 5]), craft_mode="train")
    assert {n: a.tobytes() for n, a in resnet.state().items()} == state
    assert resnet.training and not resnet.stem.training
    resnet.train()


def test_craft_mode_decides_which_statistics_count(resnet):
    x, y = images()
    in_eval = attacks.input_gradient(resnet, x, y, craft_mode="eval")
    resnet.eval()
    assert np.array_equal(in_eval, attacks.input_gradient(resnet, x, y))
    resnet.train()
    assert np.array_equal(in_eval, attacks.input_gradient(resnet, x, y))
    in_train = attacks.input_gradient(resnet, x, y, craft_mode="train")
    assert np.abs(in_train - in_eval).max() > 0.01 * np.abs(in_eval).max()


def test_no_weight_gradient_is_computed(resnet, monkeypatch):
    calls = []
    real = numpy_kernels.conv2d_gw
    monkeypatch.setattr(numpy_kernels, "conv2d_gw", lambda *a, **k: calls.append(1) or real(*a, **k))
    x, y = images(2)
    for name in attacks.ATTACKS:
        for craft_mode in ("eval", "train"):
            run(name, resnet, x, y, craft_mode=craft_mode, **STEPS.get(name, {}))
    assert calls == []
    ops.softmax_cross_entropy(resnet(Tensor(x))[0], Tensor(y)).backward()  # the probe does see a weight gradient
    assert len(calls) == sum(t.ndim == 4 for t in resnet.parameters().values())
    resnet.zero_grad()


def test_the_tape_knows_only_the_image_while_crafting(resnet, monkeypatch):
    """Nothing that a weight's gradient would read is kept: the one leaf that any node leads to is the image."""
    leaves = []
    real = tape.Node.__init__

    def init(self, name, parents, *rest):
        leaves.extend(p for p in parents if isinstance(p, Tensor))
        real(self, name, parents, *rest)

    monkeypatch.setattr(tape.Node, "__init__", init)
    x, y = images(2)
    attacks.fgsm(resnet, x, y)
    assert len({id(leaf) for leaf in leaves}) == 1 and leaves[0].shape == x.shape


@pytest.mark.parametrize("name, options", VARIANTS, ids=str)
def test_on_a_gpu_the_same(cupy, golden, name, options):
    here, there = Dense(golden), Dense(golden).to("cupy")
    x, y = golden["x"][:5], golden["y"][:5]
    found = run(name, there, backend.placed(x, "cupy"), y, **options)
    assert backend.on_gpu(found)
    np.testing.assert_allclose(found.get(), run(name, here, x, y, **options), rtol=0, atol=1e-5)
