"""The Inception networks, LeNet and VGG16 with batch norm: their sizes and names, and each beside its source."""

import os
import sys
import types
from contextlib import contextmanager

import numpy as np
import pytest
from model_cases import awake

from minisatm import InputError, Tensor, grad, layers, models, no_grad, ops
from minisatm.backend import placed
from minisatm.layers import BatchNorm, ConvNorm
from minisatm.models import inception
from weights_convert.maps import inception as names
from weights_convert.maps import lenet as lenet_names
from weights_convert.maps import torchvision as torchvision_names

KERAS, TORCHVISION = names.VARIANTS["keras_inception_v3"], names.VARIANTS["torchvision_inception_v3"]
THIN = {"classes": 5, "width": 1 / 8, "size": 75}


# Sizes and names


@pytest.mark.parametrize(
    "name, shape, variant, parameters, buffers, features",
    [
        ("inception_v3", (1000, 299, 3), {}, 23_834_568, 2 * 17_216, 2048),  # torchvision's without its second head
        ("inception_v3", (1000, 299, 3), KERAS, 23_851_784 - 2 * 17_216, 2 * 17_216, 2048),
        ("inception_resnet_v2", (1000, 299, 3), KERAS, 55_873_736 - 2 * 30_272, 2 * 30_272, 1536),
        ("vgg16", (1000, 224, 3), {"batch_norm": True}, 138_365_992, 2 * 4224, 4096),
        ("lenet", (10, 28, 1), {}, 431_080, 0, 500),
    ],
)
def test_published_counts(name, shape, variant, parameters, buffers, features, monkeypatch):
    monkeypatch.setattr(layers, "he_normal", lambda rng, shape: Tensor(np.zeros(shape, np.float32), requires_grad=True))
    network = models.build(name, **dict(zip(("classes", "size", "channels"), shape)), **variant)
    assert network.count_parameters() == parameters
    assert sum(array.size for array in network.buffers().values()) == buffers
    assert network.feature_width == features


@pytest.mark.parametrize("name, convs, ups", [("inception_v3", 94, 0), ("inception_resnet_v2", 204, 40)])
def test_names(name, convs, ups):
    network = models.build(name, **THIN)
    own = list(network.state())
    assert sum(n.endswith(".conv.weight") for n in own) == convs
    assert [n for n in own if ".up." in n] == [
        f"stage{side}.{i}.up.{leaf}"
        for side, count in ((35, 10), (17, 20), (8, 10))
        for i in range(1, count + 1)
        for leaf in ("weight", "bias")
    ] * (ups > 0)
    known = {
        "inception_v3": ["stage17.1.branch3.4.bn.beta", "stage8.2.branch3.2.branch2.0.bn.mean"],
        "inception_resnet_v2": ["stage17.20.branch2.2.bn.beta", "stage8.11.bn.mean"],
    }[name]
    assert {"stem.0.conv.weight", "stem.5.bn.gamma", "stage35.0.branch2.1.bn.var", "fc.weight", *known} <= set(own)
    without = models.build(name, bn_scale=False, **THIN)
    assert list(without.state()) == [n for n in own if not n.endswith("gamma")]


def test_names_of_the_small_ones():
    assert list(models.build("lenet", size=28).state()) == [
        f"{layer}.{leaf}" for layer in ("conv1", "conv2", "ip1", "ip2") for leaf in ("weight", "bias")
    ]
    vgg = list(models.build("vgg16", batch_norm=True, size=32, width=1 / 32).state())
    assert vgg[:4] == ["conv1_1.conv.weight", "conv1_1.conv.bias", "conv1_1.bn.gamma", "conv1_1.bn.beta"]
    assert vgg[13 * 4 :][:6] == [f"{layer}.{leaf}" for layer in ("fc6", "fc7", "fc8") for leaf in ("weight", "bias")]


@pytest.mark.parametrize(
    "name, size, message",
    [
        ("inception_v3", 74, "inception_v3 halves the image five times.*at least 75, not 74"),
        ("inception_resnet_v2", 32, "inception_resnet_v2 halves.*at least 75, not 32"),
        ("lenet", 14, "lenet .*at least 15, not 14"),
    ],
)
def test_images_too_small(name, size, message):
    with pytest.raises(InputError, match=message):
        models.build(name, size=size)


def test_fields_are_checked():
    with pytest.raises(InputError, match="inception_v3 has no zero_residual: its definition knows bn_scale, eps"):
        models.build("inception_v3", zero_residual=True)
    with pytest.raises(InputError, match="lenet has no dropout: its definition knows mean, std"):
        models.build("lenet", dropout=0.5)


# What they compute


def test_residual_blocks_start_as_their_shortcuts():
    x = Tensor(np.random.default_rng(0).random((1, 5, 5, 40), np.float32))  # not negative: its relu keeps it
    for zero in (True, False):
        block = models.build("inception_resnet_v2", zero_residual=zero, **THIN).stage35[1]
        assert np.array_equal(block(x).data, x.data) == zero


@pytest.mark.parametrize("kernel", [(1, 7), (7, 1), (3, 1), 5])
@pytest.mark.parametrize("gamma", [None, 1.0])
def test_folding_changes_nothing(kernel, gamma):
    rng = np.random.default_rng(0)
    layer = awake(ConvNorm(3, 4, kernel, eps=1e-3, gamma=gamma, bias=True, rng=rng).astype(np.float64)).eval()
    x = Tensor(rng.standard_normal((2, 9, 8, 3)))
    plain = layer.bn(layer.conv(x)).data
    assert plain.shape == (2, 9, 8, 4)
    np.testing.assert_allclose(layer(x).data, plain, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(layer(x, relu=True).data, np.maximum(plain, 0), rtol=1e-12, atol=1e-13)


def test_without_gamma_it_is_one():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4, 3, 3, 2)).astype(np.float32)
    one, other = BatchNorm(2, gamma=None), BatchNorm(2)
    assert list(one.parameters()) == ["beta"]
    for training in (True, False):
        assert np.array_equal(*(layer.train(training)(Tensor(x)).data for layer in (one, other)))
    assert np.array_equal(one.mean, other.mean) and np.array_equal(one.var, other.var)


BLOCKS = {
    "an average pool": lambda d, rng: inception.Mixed(6, inception.mixed_35(64, 32), 1 / 16, d, rng),
    "rows and columns": lambda d, rng: inception.Mixed(6, inception.mixed_17(128), 1 / 32, d, rng),
    "a fork": lambda d, rng: inception.Mixed(6, inception.MIXED_8, 1 / 64, d, rng),
    "a halving": lambda d, rng: inception.Mixed(6, inception.V3["stage17"][0], 1 / 32, d, rng),
    "a residual": lambda d, rng: inception.Residual(6, inception.Res(inception.BLOCK_17, 0.1), 1 / 32, d, rng),
    "the last one": lambda d, rng: inception.Residual(6, inception.Res(inception.BLOCK_8, 1.0, False), 1 / 32, d, rng),
}


@pytest.mark.parametrize("variant", [{}, {"bn_scale": False, "count_padding": False}], ids=["torchvision", "keras"])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("kind", BLOCKS)
def test_gradients_of_a_block(kind, training, variant):
    """<gradient, v> for a random direction v of the input and of every weight, by central differences."""
    rng = np.random.default_rng(1)
    block = BLOCKS[kind](inception.InceptionDefinition(zero_residual=False, **variant), rng)
    block = awake(block.astype(np.float64)).train(training)
    x = Tensor(rng.standard_normal((2, 7, 7, 6)), requires_grad=True)
    cotangent = Tensor(rng.standard_normal(block(x).shape))
    ops.sum(block(x) * cotangent).backward()
    for name, tensor in {"x": x, **block.parameters()}.items():
        start, v = tensor.data, rng.standard_normal(tensor.shape)
        ends = []
        with no_grad():
            for step in (1e-7, -1e-7):
                tensor.data = start + step * v
                ends.append(float((block(x) * cotangent).data.sum()))
        tensor.data = start
        size = np.abs(tensor.grad).max() * np.abs(v).sum()
        assert tensor.grad.any() and abs((ends[0] - ends[1]) / 2e-7 - (tensor.grad * v).sum()) < 1e-6 * size, name


@pytest.mark.parametrize("name", ["inception_v3", "inception_resnet_v2"])
def test_a_thin_network_learns(name):
    """Plain steps on eight images: every weight has its gradient, and the loss falls."""
    network = models.build(name, **THIN)
    rng = np.random.default_rng(0)
    x, y = Tensor(rng.random((8, 75, 75, 3), np.float32)), Tensor(rng.integers(0, 5, 8))
    losses = []
    for _ in range(6):
        loss = ops.softmax_cross_entropy(network(x)[0], y)
        network.zero_grad()
        loss.backward()
        losses.append(float(loss))
        for tensor in network.parameters().values():
            tensor.data = tensor.data - np.float32(0.05) * tensor.grad
    assert losses[-1] < 0.8 * losses[0], losses


@pytest.mark.parametrize("name, variant", [("inception_v3", {"bn_scale": False}), ("lenet", {"channels": 1})])
def test_the_gpu_backend_computes_the_same(name, variant, cupy):
    shape = {"inception_v3": THIN | {"width": 1 / 16}, "lenet": {"classes": 5, "size": 28}}[name]
    network = awake(models.build(name, **shape, **variant).astype(np.float64))
    size, channels = network.definition["size"], network.definition["channels"]
    pixels = np.random.default_rng(0).random((4, size, size, channels))
    start = {key: array.copy() for key, array in network.state().items()}
    results = []
    for where in ("numpy", "cupy"):
        network.to(where).set_state({key: placed(array, where) for key, array in start.items()})
        for training in (False, True):
            x = Tensor(placed(pixels, where), requires_grad=True)
            logits, _ = network.train(training)(x)
            gradients = grad(ops.sum(logits * logits), [x, *network.parameters().values()])
            results.append([placed(a, "numpy") for a in (logits.data, *gradients, *network.buffers().values())])
    for ours, theirs in zip(results[:2], results[2:]):
        assert ours[0].any() and ours[1].any()
        for a, b in zip(ours, theirs):  # a thin branch may be dead: all zero
            assert np.abs(a - b).max() <= 1e-8 * np.abs(a).max()


# Against the sources: random weights of theirs, copied by the maps that the converter uses


def random_tensors(shapes, seed=0):
    """{name: array} in which a swapped, ignored or turned one shows; convolutions with He's spread, in any layout."""
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, shape in shapes.items():
        if len(shape) == 1:
            positive = name.endswith(("var", "variance", "weight"))
            tensors[name] = rng.uniform(0.5, 1.5, shape) if positive else 0.2 * rng.standard_normal(shape)
        else:
            fan_in = np.prod(shape) / (shape[-1] if "/kernel" in name else shape[0])
            tensors[name] = rng.standard_normal(shape) * np.sqrt(2 / fan_in)
    return tensors


def carry(pairs, tensors, network):
    """Give our network the source's tensors."""
    turned = {
        "same": lambda a, chw: a,
        "OIHW->HWIO": lambda a, chw: a.transpose(2, 3, 1, 0),
        "OI->IO": lambda a, chw: a.T,
        "O(CHW)->(HWC)O": lambda a, chw: a.reshape(-1, *chw).transpose(2, 3, 1, 0).reshape(-1, len(a)),
    }
    network.set_state({p[0]: turned[p[2]](tensors[p[1]], p[3] if len(p) > 3 else None) for p in pairs})
    return network


@contextmanager
def float64_keras():
    os.environ.setdefault("KERAS_BACKEND", "torch")
    pytest.importorskip("torch", reason="PyTorch is not installed: Keras has nothing to compute with")
    keras = pytest.importorskip("keras", reason="Keras is not installed: its Inception networks are not compared")
    if keras.backend.backend() != "torch":
        pytest.skip("Keras does not compute with PyTorch here: its gradients are not compared")
    before, narrowed = keras.backend.floatx(), keras.src.backend.common.dtypes.BIT64_TO_BIT32_DTYPE
    keras.utils.clear_session()  # layers are numbered from zero again
    keras.backend.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    try:
        with pytest.MonkeyPatch.context() as patch:  # or batch norm, means and products are of float32 all the same
            patch.setitem(narrowed, "float64", "float64")
            yield keras
    finally:
        keras.backend.set_floatx(before)
        keras.config.set_dtype_policy(before)
        keras.utils.clear_session()


def torchvision_models():
    pytest.importorskip("torch", reason="PyTorch is not installed: networks are not compared with torchvision's")
    sys.modules.setdefault("torchvision._meta_registrations", types.ModuleType("unused"))  # wants compiled operators
    return pytest.importorskip("torchvision.models", reason="torchvision is not installed: it is not compared with")


def randomised(theirs):
    """Give PyTorch's network random weights; returns them by name."""
    import torch

    state = theirs.state_dict()
    tensors = random_tensors({k: tuple(v.shape) for k, v in state.items() if v.ndim})
    theirs.load_state_dict({k: torch.from_numpy(tensors[k]) if v.ndim else v for k, v in state.items()})
    return tensors


def imagenet(x):
    """Pixels, channels first, as torchvision's networks want them."""
    mean, std = (x.new_tensor(v).view(-1, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    return (x - mean) / std


def error(ours, theirs):
    """max|a - b| / max|b|."""
    assert ours.shape == theirs.shape and ours.dtype == theirs.dtype == np.float64
    assert np.isfinite(theirs).all() and theirs.any()
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def compare(network, forward, channels_first):
    """{quantity: error} of logits, features and the input gradient of both, in eval mode and float64."""
    import torch

    torch.set_num_threads(1)  # PyTorch's threads and NumPy's wait for each other
    rng = np.random.default_rng(1)
    size, channels = network.definition["size"], network.definition["channels"]
    pixels = rng.random((1, size, size, channels))
    x, tx = Tensor(pixels, requires_grad=True), torch.from_numpy(pixels).requires_grad_()
    logits, features = network.requires_grad(False).eval()(x)
    their_logits, their_features = forward(tx.permute(0, 3, 1, 2) if channels_first else tx)
    g, h = (rng.standard_normal(t.shape) / np.abs(t.data).max() for t in (logits, features))
    (gx,) = grad(ops.sum(logits * Tensor(g)) + ops.sum(features * Tensor(h)), [x])
    ((their_logits * torch.from_numpy(g)).sum() + (their_features * torch.from_numpy(h)).sum()).backward()
    pairs = {"logits": (logits.data, their_logits), "features": (features.data, their_features), "d/dx": (gx, tx.grad)}
    return {what: error(a, b.detach().numpy()) for what, (a, b) in pairs.items()}


@contextmanager
def keras_twin(name):
    """Keras's network with random weights, as a function (size, changes to our definition) -> errors of ours."""
    source = f"keras_{name}"
    with float64_keras() as keras:
        make = {"inception_v3": "InceptionV3", "inception_resnet_v2": "InceptionResNetV2"}[name]
        body = getattr(keras.applications, make)(weights=None, include_top=False, pooling="avg")  # for any size
        theirs = keras.Model(body.inputs, [keras.layers.Dense(1000, name="predictions")(body.output), body.output])
        weights = {f"{layer.name}/{w.name}": w for layer in theirs.layers for w in layer.weights}
        tensors = random_tensors({key: tuple(w.shape) for key, w in weights.items()})
        for key, w in weights.items():
            w.assign(tensors[key])

        def errors(size, **changes):
            ours = models.build(name, classes=1000, size=size, **names.VARIANTS[source] | changes).astype(np.float64)
            pairs = getattr(names, source)(ours)
            assert sorted(p[1] for p in pairs) == sorted(weights)
            return compare(carry(pairs, tensors, ours), lambda x: theirs(2 * x - 1, training=False), False)

        yield errors


@pytest.mark.peer
@pytest.mark.parametrize("name", ["inception_v3", "inception_resnet_v2"])
def test_keras(name):
    with keras_twin(name) as errors_at:
        for size in (150, 299):
            errors = errors_at(size)
            assert max(errors.values()) < 1e-9, (size, errors)


@pytest.mark.peer
def test_a_wrong_definition_is_seen():
    with keras_twin("inception_v3") as errors_at:
        for change in ({"count_padding": True}, {"eps": 1.001e-3}, {"std": (0.5, 0.5, 0.501)}):
            errors = errors_at(75, **change)
            assert min(errors.values()) > 1e-7, (change, errors)


@pytest.mark.peer
@pytest.mark.parametrize("size", [299, 150])
def test_torchvision(size):
    inception_v3 = torchvision_models().inception_v3
    theirs = inception_v3(weights=None, init_weights=False, transform_input=True).double().eval()
    tensors = randomised(theirs)
    features = []
    theirs.avgpool.register_forward_hook(lambda module, inputs, output: features.append(output.flatten(1)))
    ours = models.build("inception_v3", classes=1000, size=size, **TORCHVISION).astype(np.float64)
    pairs = names.torchvision_inception_v3(ours)
    left = set(tensors) - {p[1] for p in pairs}
    assert left and all(name.startswith("AuxLogits.") for name in left)
    errors = compare(carry(pairs, tensors, ours), lambda x: (theirs(imagenet(x)), features.pop()), True)
    assert max(errors.values()) < 1e-9, errors


@pytest.mark.peer
@pytest.mark.parametrize("size", [64, 75])
def test_vgg16_with_batch_norm(size):
    """Thin: torchvision's own layers, and dense ones as wide as ours."""
    torchvision_models()
    import torch
    from torchvision.models import vgg

    ours = models.build("vgg16", classes=7, width=1 / 8, size=size, batch_norm=True).eval().astype(np.float64)
    plan = [n if n == "M" else n // 8 for n in vgg.cfgs["D"]]
    sizes = [64 * (size // 32) ** 2, 512, 512, 7]
    dense = [
        layer
        for a, b in zip(sizes, sizes[1:])
        for layer in (torch.nn.Linear(a, b), torch.nn.ReLU(), torch.nn.Identity())
    ]
    parts = {"features": vgg.make_layers(plan, batch_norm=True), "classifier": torch.nn.Sequential(*dense)}
    theirs = torch.nn.ModuleDict(parts).double().eval()
    tensors = randomised(theirs)

    def forward(x):
        features = theirs["classifier"][:5](theirs["features"](imagenet(x)).flatten(1))
        return theirs["classifier"][6](features), features

    pairs = list(torchvision_names.vgg16(ours))
    assert {p[1] for p in pairs} == set(tensors)
    errors = compare(carry(pairs, tensors, ours), forward, True)
    assert max(errors.values()) < 1e-9, errors


@pytest.mark.peer
@pytest.mark.parametrize("size", [28, 31])
def test_lenet(size):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: LeNet is not compared with it")
    F = torch.nn.functional
    ours = models.build("lenet", classes=10, size=size, channels=1).astype(np.float64)
    pairs = lenet_names.caffe_lenet(ours)
    side = {28: 4, 31: 5}[size]  # Caffe's pools round up
    shapes = {"conv1/0": (20, 1, 5, 5), "conv2/0": (50, 20, 5, 5), "ip1/0": (500, 50 * side**2), "ip2/0": (10, 500)}
    tensors = random_tensors(shapes | {f"{k[:-1]}1": v[:1] for k, v in shapes.items()})

    def forward(x):
        w = {k: torch.from_numpy(v) for k, v in tensors.items()}
        for conv in ("conv1", "conv2"):
            x = F.max_pool2d(
                F.conv2d(x * 255 / 256 if conv == "conv1" else x, w[f"{conv}/0"], w[f"{conv}/1"]), 2, ceil_mode=True
            )
        features = F.linear(x.flatten(1), w["ip1/0"], w["ip1/1"]).relu()
        return F.linear(features, w["ip2/0"], w["ip2/1"]), features

    errors = compare(carry(pairs, tensors, ours), forward, True)
    assert max(errors.values()) < 1e-9, errors
