"""Networks: sizes, names of the weights, random starts, refusals, and definitions."""

import numpy as np
import pytest
from model_cases import SMALL, awake, pixels, small

from minisatm import InputError, Tensor, layers, models


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
    with pytest.raises(InputError, match="unknown network 'resnet51': choose vgg16, resnet50, resnet101"):
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


def test_unknown_field_of_vgg16_and_wrong_choices():
    with pytest.raises(InputError, match="vgg16 has no eps: its definition knows dropout, mean, std, bgr"):
        small("vgg16", eps=1e-3)
    with pytest.raises(InputError, match="stride_in='2x2': a ResNet's can be 3x3 or 1x1"):
        small("resnet50", stride_in="2x2")
    with pytest.raises(InputError, match="must have one value for each of the 3 channels"):
        small("resnet50", mean=(0.5,), std=(0.5,))
