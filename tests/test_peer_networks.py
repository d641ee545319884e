"""Whole networks against PyTorch on copied weights: logits, features, every gradient, running statistics."""

import numpy as np
import pytest

from minisatm import Tensor, grad, models, ops
from minisatm.kernels import winograd
from minisatm.layers import BatchNorm, seed_dropout

torch = pytest.importorskip("torch", reason="PyTorch is not installed: networks are not compared with it")
from peers import torch_models  # noqa: E402  (needs torch)

pytestmark = pytest.mark.peer

THIN = {"vgg16": 1 / 8, "resnet50": 1 / 8, "resnet101": 1 / 16, "resnet20": 1.0}
CLASSES = 8
BATCH = 4


def error(ours, theirs):
    """max|a - b| / max|b|."""
    theirs = theirs.detach().numpy() if isinstance(theirs, torch.Tensor) else theirs
    assert ours.shape == theirs.shape and ours.dtype == theirs.dtype
    scale = np.abs(theirs).max()
    assert np.isfinite(scale) and scale > 0, "nothing to compare: PyTorch's values are all zero, or not finite"
    return float(np.abs(ours - theirs).max() / scale)


def randomise(network, rng):
    """Weights, affine terms and running statistics in which a swapped or ignored one shows."""
    for name, tensor in network.parameters().items():
        a = tensor.data
        if name.endswith("gamma"):
            last = ("conv3.bn.gamma", "project.bn.gamma")  # of a residual block: small, or 33 blocks add up to millions
            tensor.data = rng.uniform(0.3, 0.8, a.shape) * (0.5 if name.endswith(last) else 1.5)
        elif name.endswith(("beta", "bias")):
            tensor.data = 0.2 * rng.standard_normal(a.shape)
        else:
            tensor.data = rng.standard_normal(a.shape) * np.sqrt(2 / np.prod(a.shape[:-1]))
        tensor.data = tensor.data.astype(a.dtype)
    for _, module in network.modules():
        if isinstance(module, BatchNorm):
            module.mean = (0.3 * rng.standard_normal(module.mean.shape)).astype(module.mean.dtype)
            module.var = rng.uniform(0.5, 2, module.var.shape).astype(module.var.dtype)
    return network


def twins(name, size, dtype=np.float64, exact=False, **variant):
    """Our network and PyTorch's with the same random weights."""
    settings = dict(classes=CLASSES, size=size) | {"width": THIN[name]} | variant
    ours = randomise(models.build(name, exact=exact, **settings).astype(dtype), np.random.default_rng(1))
    theirs = torch_models.build(name, **settings).to(torch.float64 if dtype == np.float64 else torch.float32)
    return ours, torch_models.copy_weights(ours, theirs)


def channels_first(x):
    return torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))


def compare(ours, theirs, *, training, seed=2):
    """{quantity: relative error} of one forward pass and two backward passes through it."""
    rng = np.random.default_rng(seed)
    dtype = next(iter(ours.parameters().values())).dtype
    size, channels = ours.definition["size"], ours.definition["channels"]
    pixels = rng.random((BATCH, size, size, channels)).astype(dtype)
    labels = rng.integers(0, CLASSES, BATCH)
    ours.train(training)
    theirs.train(training)
    weights = ours.parameters()
    before = {name: a.copy() for name, a in ours.buffers().items()}

    x, tx = Tensor(pixels, requires_grad=True), channels_first(pixels).requires_grad_()
    (logits, features), (their_logits, their_features) = ours(x), theirs(tx)
    errors = {"logits": error(logits.data, their_logits), "features": error(features.data, their_features)}

    # cotangents over the size of their arrays, so that neither the logits' part nor the features' drowns the other
    g, h = (rng.standard_normal(t.shape).astype(dtype) / t.dtype.type(np.abs(t.data).max()) for t in (logits, features))
    losses = {
        "combination": (
            ops.sum(logits * Tensor(g)) + ops.sum(features * Tensor(h)),
            (their_logits * torch.from_numpy(g)).sum() + (their_features * torch.from_numpy(h)).sum(),
        ),
        "cross-entropy": (
            ops.softmax_cross_entropy(logits, Tensor(labels), reduction="sum"),
            torch.nn.functional.cross_entropy(their_logits, torch.from_numpy(labels), reduction="sum"),
        ),
    }
    for what, (loss, their_loss) in losses.items():
        theirs.zero_grad()
        tx.grad = None
        their_loss.backward(retain_graph=True)
        gx, *gw = grad(loss, [x, *weights.values()], keep=True)
        errors[f"{what}: d/dx"] = error(gx, tx.grad.permute(0, 2, 3, 1))
        their_gw = torch_models.gradients_of(ours, theirs)
        assert their_gw.keys() == weights.keys()
        for name, part in zip(weights, gw):
            if training and name.endswith("conv.bias"):  # batch norm takes it off again: zero but for rounding
                beta = their_gw[name.replace("conv.bias", "bn.beta")]
                assert np.abs(their_gw[name]).max() < 1e-9 * np.abs(beta).max()
                errors[f"{what}: d/d{name}"] = float(np.abs(part).max() / np.abs(beta).max())
            else:
                errors[f"{what}: d/d{name}"] = error(part, their_gw[name])

    their_state = theirs.state_dict()
    for name, buffer in ours.buffers().items():
        errors[name] = error(buffer, their_state[torch_models.torch_name(ours, name)])
        assert np.array_equal(buffer, before[name]) == (not training)
    return errors


def within(tolerance, errors):
    bad = sorted(((e, what) for what, e in errors.items() if not e <= tolerance), reverse=True)
    assert not bad, f"{len(bad)} of {len(errors)} are off:\n" + "\n".join(f"{e:9.1e}  {what}" for e, what in bad[:12])


CASES = [
    (name, size, training)
    for name, sizes in {"vgg16": (64, 111), "resnet50": (64, 75), "resnet101": (64, 75), "resnet20": (64, 75)}.items()
    for size in sizes
    for training in (False, True)
]


@pytest.mark.parametrize("name, size, training", CASES)
def test_everything_in_float64(name, size, training):
    variant = {"dropout": 0.0} if name == "vgg16" else {}
    within(1e-9, compare(*twins(name, size, **variant), training=training))


@pytest.mark.parametrize("name, size", [("vgg16", 111), ("resnet50", 75), ("resnet101", 64), ("resnet20", 75)])
def test_logits_in_float32(name, size):
    ours, theirs = (n.eval() for n in twins(name, size, np.float32))
    pixels = np.random.default_rng(2).random((BATCH, size, size, 3), np.float32)
    (logits, features), (their_logits, their_features) = ours(Tensor(pixels)), theirs(channels_first(pixels))
    within(1e-4, {"logits": error(logits.data, their_logits), "features": error(features.data, their_features)})


@pytest.mark.parametrize("exact, tolerance", [(False, 1e-3), (True, 1e-4)])
@pytest.mark.parametrize("name, size", [("vgg16", 96), ("resnet50", 97)])
def test_logits_in_float32_where_convolutions_go_by_winograd(name, size, exact, tolerance, monkeypatch):
    """Half the full width: all but the first of VGG16's convolutions, and every 3x3 of stride 1 in ResNet50."""
    taken = []
    convolve = winograd.conv2d
    monkeypatch.setattr(winograd, "conv2d", lambda *a, **k: taken.append(1) or convolve(*a, **k))
    ours, theirs = (n.eval() for n in twins(name, size, np.float32, width=0.5, exact=exact))
    pixels = np.random.default_rng(2).random((BATCH, size, size, 3), np.float32)
    (logits, features), (their_logits, their_features) = ours(Tensor(pixels)), theirs(channels_first(pixels))
    within(tolerance, {"logits": error(logits.data, their_logits), "features": error(features.data, their_features)})
    assert len(taken) == (0 if exact else {"vgg16": 12, "resnet50": 13}[name])


VARIANTS = {
    "stride in the first 1x1": {"stride_in": "1x1"},
    "Keras": {"stride_in": "1x1", "conv_bias": True, "eps": 1.001e-5, "momentum": 0.01},
    "keras-vggface": {"stride_in": "1x1", "eps": 1e-3, "momentum": 0.01, "pool_padding": 0},
    "Caffe": {
        "stride_in": "1x1",
        "pool_padding": 0,
        "pool_ceil": True,
        "bgr": True,
        "mean": (0.4, 0.5, 0.6),
        "std": (0.2, 0.3, 0.5),
    },
    "grey": {"channels": 1, "mean": (0.45,), "std": (0.25,)},
}


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_of_a_resnet(variant, training):
    size = 64 if variant == "Caffe" else 75  # at 75 the last pool window does not hang over the edge
    within(1e-9, compare(*twins("resnet50", size, **VARIANTS[variant]), training=training))


@pytest.mark.parametrize("variant", [{}, {"bgr": True, "mean": (0.4, 0.5, 0.6), "std": (1 / 255,) * 3}])
def test_dropout_of_vgg16_stands_where_pytorch_has_it(variant):
    """Both sides draw the same masks; and the features are those before the second dropout."""
    ours, theirs = twins("vgg16", 64, dropout=0.4, **variant)
    seed_dropout(ours, np.random.default_rng(3))
    rng = np.random.default_rng(3)
    for module in theirs.modules():
        if isinstance(module, torch_models.DrawnDropout):
            module.rng = rng
    within(1e-9, compare(ours, theirs, training=True))


@pytest.mark.parametrize("change", [{"eps": 1.001e-5}, {"stride_in": "1x1"}, {"pool_padding": 0, "pool_ceil": True}])
def test_a_wrong_definition_is_seen(change):
    """The comparison itself: one field of PyTorch's definition is off, and the check must fail."""
    ours, _ = twins("resnet50", 64)
    theirs = torch_models.build("resnet50", classes=CLASSES, width=THIN["resnet50"], size=64, **change).double()
    torch_models.copy_weights(ours, theirs)
    with pytest.raises(AssertionError, match="are off"):
        within(1e-9, compare(ours, theirs, training=False))


def test_swapped_weights_are_seen():
    ours, theirs = twins("resnet20", 32)
    state = ours.state()
    one, two = "stage1.0.conv1.bn.var", "stage1.1.conv2.bn.var"
    ours.set_state({**state, one: state[two].copy(), two: state[one].copy()})
    with pytest.raises(AssertionError, match="are off"):
        within(1e-9, compare(ours, theirs, training=False))


def test_weights_come_back_as_they_went():
    for name, size in (("vgg16", 111), ("resnet50", 64)):
        ours, theirs = twins(name, size)
        other = torch_models.copy_back(models.build(name, classes=CLASSES, width=THIN[name], size=size, rng=9), theirs)
        other.astype(np.float64)
        for key, array in ours.state().items():
            assert np.array_equal(other.state()[key], array.astype(np.float32)), key


# A real pretrained network


@pytest.fixture(scope="module")
def cifar(data_dir):
    folder = data_dir / "weights" / "cifar10_resnet20"
    if not (folder / "reference.npz").is_file():
        pytest.skip(f"no pretrained ResNet20 in {folder}: it is not compared with PyTorch")
    state = torch.load(folder / "resnet20-12fca82f.th", map_location="cpu", weights_only=True)["state_dict"]
    theirs = torch_models.CifarResNet20(10)
    known = {key.removeprefix("module."): value for key, value in state.items()}
    counters = {
        k: v for k, v in theirs.state_dict().items() if k.endswith("num_batches_tracked")
    }  # newer than the file
    theirs.load_state_dict({**counters, **known})
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    ours = torch_models.copy_back(models.build("resnet20", classes=10, size=32, mean=mean, std=std), theirs).eval()
    with np.load(folder / "reference.npz") as file:
        reference = dict(file)
    reference["x"] = reference["images"].astype(np.float32) / 255
    return ours, reference


def test_pretrained_resnet20_gives_pytorchs_logits(cifar):
    network, reference = cifar
    logits, features = network(Tensor(reference["x"]))
    within(1e-4, {"logits": error(logits.data, reference["logits"])})
    within(1e-4, {"features": error(features.data, reference["features"])})
    predicted, theirs = logits.data.argmax(axis=1), reference["logits"].argmax(axis=1)
    assert np.array_equal(predicted, theirs)
    assert (predicted == reference["labels"]).sum() == 205  # of 256: a wrong input layer or shortcut loses dozens


def test_pretrained_resnet20_gives_pytorchs_input_gradient(cifar):
    network, reference = cifar
    count = len(reference["input_gradient"])
    x = Tensor(reference["x"][:count], requires_grad=True)
    loss = ops.softmax_cross_entropy(network(x)[0], Tensor(reference["labels"][:count]), reduction="sum")
    (gx,) = grad(loss, [x])
    within(1e-4, {"loss_sum": error(np.atleast_1d(loss.data), np.atleast_1d(reference["loss_sum"]))})
    within(1e-4, {"input gradient": error(gx, reference["input_gradient"])})
