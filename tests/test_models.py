"""The networks by themselves: sizes, names, modes, buffers, refusals, and a finite-difference check of whole ones."""

import numpy as np
import pytest

from minisatm import InputError, Tensor, grad, layers, models, no_grad, ops
from minisatm.layers import BatchNorm, Dropout, seed_dropout

SMALL = {
    "vgg16": {"classes": 5, "width": 1 / 32, "size": 32},
    "resnet50": {"classes": 5, "width": 1 / 32, "size": 32},
    "resnet101": {"classes": 5, "width": 1 / 32, "size": 32},
    "resnet20": {"classes": 5, "width": 1 / 4, "size": 16},
    "inception_v3": {"classes": 5, "width": 1 / 8, "size": 75},
    "inception_resnet_v2": {"classes": 5, "width": 1 / 8, "size": 75},
    "lenet": {"classes": 5, "width": 1 / 4, "size": 28},
}


def small(name, rng=0, **changes):
    return models.build(name, **{**SMALL[name], "rng": rng, **changes})


def pixels(network, count=2, seed=1, dtype=np.float32):
    size, channels = network.definition["size"], network.definition["channels"]
    return np.random.default_rng(seed).random((count, size, size, channels)).astype(dtype)


def awake(network, seed=5):
    """Random affine terms and running statistics: residual blocks start with gamma zero, which hides half the graph."""
    rng = np.random.default_rng(seed)
    for _, module in network.modules():
        if isinstance(module, BatchNorm):
            if module.gamma is not None:
                module.gamma.data = rng.uniform(0.5, 1, module.gamma.shape).astype(module.gamma.dtype)
            module.beta.data = (0.2 * rng.standard_normal(module.beta.shape)).astype(module.beta.dtype)
            module.mean = (0.2 * rng.standard_normal(module.mean.shape)).astype(module.mean.dtype)
            module.var = rng.uniform(0.5, 2, module.var.shape).astype(module.var.dtype)
    return network


# Size


@pytest.mark.parametrize(
    "name, classes, size, count",
    [
        ("vgg16", 1000, 224, 138_357_544),
        ("resnet50", 1000, 224, 25_557_032),
        ("resnet101", 1000, 224, 44_549_160),
        ("resnet20", 10, 32, 269_722),
    ],
)
def test_published_parameter_counts(name, classes, size, count, monkeypatch):
    # Zeros are memory that the system hands out only when it is touched: VGG16's half gigabyte is never filled.
    monkeypatch.setattr(layers, "he_normal", lambda rng, shape: Tensor(np.zeros(shape, np.float32), requires_grad=True))
    network = models.build(name, classes=classes, size=size)
    assert network.count_parameters() == count
    assert network.feature_width == {"vgg16": 4096, "resnet50": 2048, "resnet101": 2048, "resnet20": 64}[name]


def test_resnet20_count_by_its_own_arithmetic():
    """269,722: 3x3 convolutions without bias, two affine terms per channel, no weights in the shortcuts."""
    stem = 9 * 3 * 16 + 2 * 16
    stages = sum(9 * (before + 5 * c) * c + 6 * 2 * c for before, c in ((16, 16), (16, 32), (32, 64)))
    assert stem + stages + 64 * 10 + 10 == 269_722


@pytest.mark.parametrize("name", SMALL)
def test_shapes_and_dtype(name):
    for channels in (1, 3):
        network = small(name, channels=channels).eval()
        logits, features = network(Tensor(pixels(network)))
        assert logits.shape == (2, 5) and features.shape == (2, network.feature_width)
        assert logits.dtype == features.dtype == np.float32
    network.astype(np.float64)
    logits, features = network(Tensor(pixels(network, dtype=np.float64)))
    assert logits.dtype == features.dtype == np.float64


@pytest.mark.parametrize(
    "name, size",
    [("vgg16", 63), ("resnet50", 33), ("resnet50", 7), ("resnet20", 9), ("inception_v3", 98), ("lenet", 15)],
)
def test_any_size_that_fits(name, size):
    network = small(name, size=size).eval()
    assert network(Tensor(pixels(network)))[0].shape == (2, 5)


def test_width_scales_every_channel_count():
    thin, wide = (models.build("resnet50", classes=3, width=w, size=32).parameters() for w in (1 / 16, 1 / 8))
    assert thin.keys() == wide.keys()
    for name, weight in thin.items():
        free = {"stem.conv.weight": 2, "fc.weight": 1, "fc.bias": 0}.get(name)  # axes that are not channels of ours
        for axis, (a, b) in enumerate(zip(weight.shape, wide[name].shape)):
            fixed = axis == free or (weight.data.ndim == 4 and axis < 2)
            assert b == (a if fixed else 2 * a), name


# Names


def test_parameter_names_of_vgg16_in_definition_order():
    convs = [f"conv{b}_{i}" for b, n in enumerate((2, 2, 3, 3, 3), 1) for i in range(1, n + 1)]
    expected = [f"{layer}.{w}" for layer in (*convs, "fc6", "fc7", "fc8") for w in ("weight", "bias")]
    assert list(small("vgg16").parameters()) == expected


def norm_names(place, *, bias=False):
    return [f"{place}.conv.weight", *([f"{place}.conv.bias"] if bias else []), f"{place}.bn.gamma", f"{place}.bn.beta"]


@pytest.mark.parametrize("bias", [False, True])
def test_parameter_names_of_resnet50_in_definition_order(bias):
    expected = norm_names("stem", bias=bias)
    for stage, count in enumerate((3, 4, 6, 3), 1):
        for i in range(count):
            for layer in ("conv1", "conv2", "conv3", *(["project"] if i == 0 else [])):
                expected += norm_names(f"stage{stage}.{i}.{layer}", bias=bias)
    assert list(small("resnet50", conv_bias=bias).parameters()) == [*expected, "fc.weight", "fc.bias"]


def test_parameter_names_of_resnet20_in_definition_order():
    places = ["stem", *(f"stage{s}.{i}.conv{c}" for s in (1, 2, 3) for i in range(3) for c in (1, 2))]
    expected = [name for place in places for name in norm_names(place)]
    network = small("resnet20")
    assert list(network.parameters()) == [*expected, "fc.weight", "fc.bias"]
    assert list(network.buffers()) == [f"{place}.bn.{b}" for place in places for b in ("mean", "var")]


@pytest.mark.parametrize("name", SMALL)
def test_each_weight_has_one_name(name):
    weights = small(name).parameters()
    assert len({id(t) for t in weights.values()}) == len(weights)
    assert all(t.requires_grad and t.dtype == np.float32 for t in weights.values())


@pytest.mark.parametrize("name, blocks", [("resnet50", 16), ("resnet101", 33), ("resnet20", 9)])
def test_residual_blocks_start_as_their_shortcuts(name, blocks):
    zero = [n for n, t in small(name).parameters().items() if n.endswith("gamma") and not t.data.any()]
    assert len(zero) == blocks
    assert all(n.endswith("conv2.bn.gamma" if name == "resnet20" else "conv3.bn.gamma") for n in zero)
    assert all(t.data.any() for n, t in small(name, zero_gamma=False).parameters().items() if n.endswith("gamma"))


# Randomness


@pytest.mark.parametrize("name", ["vgg16", "resnet20"])
def test_weights_come_from_the_seed_alone(name):
    np.random.seed(0)
    one, again, other = small(name, rng=3), small(name, rng=np.random.default_rng(3)), small(name, rng=4)
    for key, array in one.state().items():
        assert np.array_equal(array, again.state()[key]), key
        if key.endswith("weight"):
            assert not np.array_equal(array, other.state()[key]), key


def test_starting_weights_have_hes_spread():
    network = models.build("vgg16", classes=8, width=1 / 4, size=64)
    for name, tensor in network.parameters().items():
        if name.endswith("bias"):
            assert not tensor.data.any()
        elif name == "fc8.weight":
            assert tensor.data.std() == pytest.approx(0.01, rel=0.05)
        elif tensor.data.size > 5_000:
            assert tensor.data.std() == pytest.approx(np.sqrt(2 / np.prod(tensor.shape[:-1])), rel=0.05), name


# Refusals


@pytest.mark.parametrize("shape", [(2, 16, 16, 1), (2, 17, 17, 3), (2, 16, 17, 3), (2, 3, 16, 16)])
def test_images_of_another_shape_are_refused(shape):
    with pytest.raises(InputError, match=r"resnet20 was built for images of 16x16x3, got an array of shape \(2, "):
        small("resnet20")(Tensor(np.zeros(shape, np.float32)))


def test_the_refusal_says_which_size_would_fit():
    with pytest.raises(InputError, match="build it with size=20 or resize"):
        small("resnet20")(Tensor(np.zeros((2, 20, 20, 3), np.float32)))
    with pytest.raises(InputError, match=r"got an array of shape \(16, 16, 3\)"):
        small("resnet20")(Tensor(np.zeros((16, 16, 3), np.float32)))


def test_unknown_network():
    with pytest.raises(InputError, match="unknown network 'resnet51': choose one of vgg16, resnet50, resnet101"):
        models.build("resnet51")


@pytest.mark.parametrize("wrong", [{"classes": 1}, {"width": 0}, {"width": -1}, {"size": 0}, {"channels": 4}])
@pytest.mark.parametrize("name", ["vgg16", "resnet50"])
def test_impossible_shapes_are_refused_with_the_value(name, wrong):
    ((field, value),) = wrong.items()
    with pytest.raises(InputError, match=f"cannot build {name} with .*{field}={value}"):
        small(name, **wrong)


def test_vgg16_needs_32_pixels():
    with pytest.raises(InputError, match="at least 32, not 31"):
        small("vgg16", size=31)


def test_unknown_field_of_a_definition():
    with pytest.raises(InputError, match="resnet50 has no stride_inn: its definition knows .* stride_in,"):
        small("resnet50", stride_inn="1x1")


# Definition


@pytest.mark.parametrize(
    "name, variant",
    [
        ("vgg16", {"dropout": 0.3, "bgr": True, "mean": (0.1, 0.2, 0.3), "std": (1.0, 2.0, 3.0)}),
        (
            "resnet50",
            {"stride_in": "1x1", "conv_bias": True, "eps": 1e-3, "pool_padding": 0, "pool_ceil": True, "bgr": True},
        ),
        ("resnet20", {"eps": 1e-3}),
        ("vgg16", {"batch_norm": True}),
        ("inception_v3", {"bn_scale": False, "count_padding": False, "mean": (0.1, 0.2, 0.3)}),
        ("inception_resnet_v2", {"bn_scale": False, "zero_residual": False, "bgr": True}),
        ("lenet", {"mean": (0.1, 0.2, 0.3)}),
    ],
)
def test_definition_rebuilds_the_same_graph(name, variant):
    network = awake(small(name, **variant)).eval()
    again = models.build(**network.definition).eval()
    again.set_state(network.state())
    x = Tensor(pixels(network))
    assert np.array_equal(network(x)[0].data, again(x)[0].data)
    plain, state = small(name).eval(), network.state()
    plain.set_state({name: state.get(name, array) for name, array in plain.state().items()})
    assert not np.array_equal(network(x)[0].data, plain(x)[0].data)


# Train and eval mode


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


# State


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


# Gradients


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


def test_unknown_field_of_vgg16_and_wrong_choices():
    with pytest.raises(InputError, match="vgg16 has no eps: its definition knows dropout, mean, std, bgr"):
        small("vgg16", eps=1e-3)
    with pytest.raises(InputError, match="stride_in='2x2': a ResNet's can be 3x3 or 1x1"):
        small("resnet50", stride_in="2x2")
    with pytest.raises(InputError, match="must have one value for each of the 3 channels"):
        small("resnet50", mean=(0.5,), std=(0.5,))
