"""Tramer's four MNIST structures: their sizes, their dropout, their files, and that they learn. LeNet: test_models."""

import numpy as np
import pytest
from model_cases import pixels

from minisatm import InputError, Tensor, attacks, grad, layers, models, no_grad, ops, optim
from minisatm.backend import placed
from minisatm.layers import Dropout, seed_dropout
from minisatm.models.mnist import STRUCTURES

COUNTS = {"mnist_a": 3_382_346, "mnist_b": 710_218, "mnist_c": 4_795_082, "mnist_d": 509_410}
RATES = {"mnist_a": (0.25, 0.5), "mnist_b": (0.2, 0.5), "mnist_c": (0.25, 0.5), "mnist_d": (0.5,) * 4}
LEAST = {"mnist_a": 9, "mnist_b": 27, "mnist_c": 5, "mnist_d": 1}


def small(name, **changes):
    return models.build(name, **{"classes": 5, "width": 1 / 16, "size": 28, "channels": 1, **changes})


# Size


@pytest.mark.parametrize("name", COUNTS)
def test_published_parameter_counts(name, monkeypatch):
    monkeypatch.setattr(layers, "he_normal", lambda rng, shape: Tensor(np.zeros(shape, np.float32), requires_grad=True))
    network = models.build(name, classes=10, size=28, channels=1)
    assert network.count_parameters() == COUNTS[name]
    assert network.feature_width == {"mnist_a": 128, "mnist_b": 128, "mnist_c": 128, "mnist_d": 300}[name]


def test_counts_by_their_own_arithmetic():
    assert COUNTS["mnist_a"] == 26 * 64 + (25 * 64 + 1) * 64 + (20 * 20 * 64 + 1) * 128 + 129 * 10
    assert COUNTS["mnist_b"] == 65 * 64 + (36 * 64 + 1) * 128 + (25 * 128 + 1) * 128 + 129 * 10  # 28 -> 14 -> 5 -> 1
    assert COUNTS["mnist_c"] == 10 * 128 + (9 * 128 + 1) * 64 + (24 * 24 * 64 + 1) * 128 + 129 * 10
    assert COUNTS["mnist_d"] == (784 + 1) * 300 + 3 * 301 * 300 + 301 * 10


@pytest.mark.parametrize("name", COUNTS)
def test_width_scales_every_channel_count_but_images_and_classes(name):
    thin, wide = (small(name, width=width).parameters() for width in (1 / 4, 1 / 2))
    assert thin.keys() == wide.keys()
    names = list(thin)
    for place in names:
        (*before, a), (*after, b) = thin[place].shape, wide[place].shape
        assert b == (a if place.startswith("fc.") else 2 * a), place
        if place.endswith("weight"):
            assert np.prod(after) == np.prod(before) * (1 if place == names[0] else 2), place


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("channels", [1, 3])
def test_shapes_and_dtype(name, channels):
    for size in (28, 29, 32):
        network = small(name, channels=channels, size=size).eval()
        logits, features = network(Tensor(pixels(network)))
        assert logits.shape == (2, 5) and features.shape == (2, network.feature_width)
        assert logits.dtype == features.dtype == np.float32
        assert (features.data >= 0).all() and features.data.any()  # after the relu


@pytest.mark.parametrize("name", COUNTS)
def test_the_smallest_image_and_the_refusal_below_it(name):
    network = small(name, size=LEAST[name]).eval()
    assert network(Tensor(pixels(network)))[0].shape == (2, 5)
    if LEAST[name] > 1:
        with pytest.raises(InputError, match=f"{name} .*size must be at least {LEAST[name]}, not {LEAST[name] - 1}"):
            small(name, size=LEAST[name] - 1)


def test_the_refusal_names_the_smallest_size_from_anywhere():
    for size in range(1, LEAST["mnist_b"]):
        with pytest.raises(InputError, match=f"at least 27, not {size}"):
            small("mnist_b", size=size)


# Names, starting weights


def test_names_say_the_place_in_the_table():
    for name, places in {"mnist_a": (0, 1, 3), "mnist_b": (1, 2, 3), "mnist_d": (0, 2, 4, 6)}.items():
        expected = [f"{place}.{w}" for place in (*(f"hidden.{i}" for i in places), "fc") for w in ("weight", "bias")]
        assert list(small(name).parameters()) == expected
        assert not small(name).buffers()


def test_weights_come_from_the_seed_and_start_as_in_the_other_networks():
    one, again, other = (small("mnist_a", width=1 / 2, classes=10, rng=seed).state() for seed in (3, 3, 4))
    for key, array in one.items():
        assert np.array_equal(array, again[key])
        if key.endswith("bias"):
            assert not array.any()
        else:
            assert not np.array_equal(array, other[key])
            spread = 0.01 if key == "fc.weight" else np.sqrt(2 / np.prod(array.shape[:-1]))
            assert array.std() == pytest.approx(spread, rel=0.1), key


# What they compute


@pytest.mark.parametrize("name", COUNTS)
def test_pixels_go_in_as_they_are_unless_mean_and_std_are_given(name):
    network = small(name).eval()
    seen = network.normalize(Tensor(pixels(network))).data
    assert np.array_equal(seen, pixels(network))
    other = small(name, mean=(0.1,), std=(0.3,)).eval()
    other.set_state(network.state())
    moved = ((pixels(network).astype(np.float64) - 0.1) / 0.3).astype(np.float32)
    np.testing.assert_allclose(other(Tensor(pixels(network)))[0].data, network(Tensor(moved))[0].data, atol=1e-6)


def test_dropout_of_b_is_on_the_pixels():
    network = small("mnist_b", dropout=(0.2, 0)).train()
    seed_dropout(network, np.random.default_rng(1))
    dropped = ops.dropout(Tensor(pixels(network)), rate=0.2, rng=np.random.default_rng(1))
    logits = network(Tensor(pixels(network)))[0].data
    assert np.array_equal(logits, network.eval()(dropped)[0].data)
    assert not np.array_equal(logits, network(Tensor(pixels(network)))[0].data)


@pytest.mark.parametrize("name", COUNTS)
def test_features_stand_before_the_last_dropout(name):
    rates = (0,) * (len(RATES[name]) - 1) + (0.5,)
    network = small(name, dropout=rates).train()
    seed_dropout(network, np.random.default_rng(1))
    logits, features = network(Tensor(pixels(network)))
    dull, same = network.eval()(Tensor(pixels(network)))
    assert np.array_equal(features.data, same.data) and not np.array_equal(logits.data, dull.data)
    dropped = ops.dropout(same, rate=0.5, rng=np.random.default_rng(1))
    assert np.array_equal(logits.data, network.fc(dropped).data)


@pytest.mark.parametrize("name", COUNTS)
def test_dropout_only_in_train_mode_and_only_from_the_given_draws(name):
    network = small(name)
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


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", COUNTS)
def test_finite_differences_through_the_whole_network(name, training):
    """<gradient, v> for a random direction v of the image and of each weight, by central differences in float64."""
    network = small(name, width=1 / 8).astype(np.float64).train(training)
    network.fc.weight.data *= 30  # 0.01 at the start: dull logits
    rng = np.random.default_rng(6)
    x = Tensor(pixels(network, 3, dtype=np.float64), requires_grad=True)
    labels, cotangent = Tensor(np.array([0, 2, 4])), Tensor(rng.standard_normal((3, network.feature_width)))

    def loss():
        seed_dropout(network, np.random.default_rng(7))  # the same masks every time
        logits, features = network(x)
        return ops.softmax_cross_entropy(logits, labels, reduction="sum") + ops.sum(features * cotangent)

    loss().backward()
    for what, tensor in {"x": x, **network.parameters()}.items():
        start, v = tensor.data, rng.standard_normal(tensor.shape)
        v *= 1e-7 / np.abs(v).max()
        ends = []
        with no_grad():
            for way in (1, -1):
                tensor.data = start + way * v
                ends.append(float(loss()))
        tensor.data = start
        size = np.abs(tensor.grad).max() * np.abs(v).sum()  # what the sum could be: it may cancel by chance
        assert tensor.grad.any(), what
        assert abs((ends[0] - ends[1]) / 2 - float((tensor.grad * v).sum())) < 1e-6 * size, what


@pytest.mark.parametrize("name", COUNTS)
def test_crafting_leaves_the_network_as_it_was_and_needs_no_draws(name):
    network = small(name).train()
    before = {key: a.tobytes() for key, a in network.state().items()}
    x = pixels(network, 4)
    adversarial = attacks.fgsm(network, x, np.array([0, 1, 2, 3]), epsilon=0.3)
    assert np.abs(adversarial - x).max() <= 0.3 + 1e-6 and not np.array_equal(adversarial, x)
    assert {key: a.tobytes() for key, a in network.state().items()} == before
    assert all(module.training for _, module in network.modules())


@pytest.mark.parametrize("name", COUNTS)
def test_adam_learns_a_few_digits(name):
    network = small(name, width=1 if name == "mnist_d" else 1 / 4, classes=4).train()
    optimiser = optim.build("adam", network.parameters(), 1e-3)
    rng = np.random.default_rng(0)
    x, y = rng.random((32, 28, 28, 1), np.float32) * 0.1, rng.integers(0, 4, 32)
    for image, digit in zip(x, y):  # a bright square in the corner that the digit names
        row, column = divmod(int(digit), 2)
        image[14 * row + 2 : 14 * row + 10, 14 * column + 2 : 14 * column + 10] += 0.8
    for step in range(60):
        seed_dropout(network, np.random.default_rng(step))
        loss = ops.softmax_cross_entropy(network(Tensor(x))[0], Tensor(y))
        loss.backward()
        optimiser.step()
    network.eval()
    assert (network(Tensor(x))[0].data.argmax(axis=1) == y).all()


@pytest.mark.parametrize("name", ["mnist_b"])
def test_the_gpu_backend_computes_the_same(name, cupy):
    network = small(name, size=29).astype(np.float64).eval()
    x = pixels(network, dtype=np.float64)
    results = []
    for where in ("numpy", "cupy"):
        network.to(where)
        image = Tensor(placed(x, where), requires_grad=True)
        logits, _ = network(image)
        gradients = grad(ops.sum(logits * logits), [image, *network.parameters().values()])
        results.append([placed(a, "numpy") for a in (logits.data, *gradients)])
    for a, b in zip(*results):
        assert a.any() and np.abs(a - b).max() <= 1e-9 * np.abs(a).max()


# Definition and files


@pytest.mark.parametrize("name", COUNTS)
def test_rates_stand_in_the_definition(name):
    assert small(name).definition["dropout"] == RATES[name]
    assert [layer.rate for layer in small(name).hidden if isinstance(layer, Dropout)] == list(RATES[name])
    network = small(name, dropout=0.1)
    assert network.definition["dropout"] == (0.1,) * len(RATES[name])
    assert [m.rate for _, m in network.modules() if isinstance(m, Dropout)] == [0.1] * len(RATES[name])


@pytest.mark.parametrize("wrong", [(0.1, 0.2, 0.3), (), (0.5, 1.0), -0.1, float("nan")], ids=str)
def test_wrong_rates_are_refused(wrong):
    with pytest.raises(
        InputError,
        match="mnist_a .* rate (or 2, )?from 0 to below 1[;,] (usual are|or one for each)",
    ):
        small("mnist_a", dropout=wrong)


def test_unknown_field_of_a_definition():
    with pytest.raises(InputError, match="mnist_c has no bgr: its definition knows dropout, mean, std, exact"):
        small("mnist_c", bgr=True)


@pytest.mark.parametrize("variant", [{}, {"dropout": 0.3, "mean": (0.1,), "std": (0.3,), "exact": True}], ids=str)
@pytest.mark.parametrize("name", COUNTS)
def test_a_file_brings_back_the_same_network(name, variant, tmp_path):
    network = small(name, rng=5, **variant)
    network.save(str(tmp_path / "n.h5"))
    for again in (models.build(**network.definition), models.build(None, weights=str(tmp_path / "n.h5"))):
        again.set_state(network.state())
        assert again.definition == network.definition
        for each in (network, again):
            each.train()
            seed_dropout(each, np.random.default_rng(1))
        for ours, theirs in zip(network(Tensor(pixels(network))), again(Tensor(pixels(network)))):
            assert np.array_equal(ours.data, theirs.data)
    read = models.build(None, weights=str(tmp_path / "n.h5")).state()
    assert all(np.array_equal(array, read[key]) for key, array in network.state().items())


def test_known_by_name():
    assert set(STRUCTURES) == set(COUNTS) <= set(models.NAMES)
    with pytest.raises(InputError, match="unknown network 'mnist_e'"):
        models.build("mnist_e")
