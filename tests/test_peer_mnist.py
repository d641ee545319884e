"""Tramer's MNIST structures against PyTorch on copied weights: logits, features, the gradients of image and weights."""

import numpy as np
import pytest

from minisatm import Tensor, grad, models, ops
from minisatm.layers import seed_dropout

torch = pytest.importorskip("torch", reason="PyTorch is not installed: the MNIST structures are not compared with it")
from peers import torch_mnist  # noqa: E402  (needs torch)

pytestmark = pytest.mark.peer

NAMES = ("mnist_a", "mnist_b", "mnist_c", "mnist_d")
CLASSES, WIDTH, BATCH = 10, 1 / 8, 3


def twins(name, size, channels=1):
    """Ours, PyTorch's body and top with the same random weights, and by how many channels each weight's rows run."""
    shape = dict(classes=CLASSES, width=WIDTH, size=size, channels=channels)
    ours = models.build(name, **shape).astype(np.float64)
    rng = np.random.default_rng(1)
    for weight in ours.parameters().values():
        fan_in = np.prod(weight.shape[:-1])
        weight.data = rng.standard_normal(weight.shape) * (np.sqrt(2 / fan_in) if weight.ndim > 1 else 0.2)
    theirs = torch_mnist.build(name, **shape)
    runs, last = [], channels
    for weight, _ in pairs(ours):
        runs.append(last if weight.ndim == 2 else 1)
        last = weight.shape[-1] if weight.ndim == 4 else 1
    for (weight, bias), layer, run in zip(pairs(ours), torch_mnist.layers(*theirs), runs, strict=True):
        with torch.no_grad():
            layer.weight.copy_(torch_mnist.to_torch(weight.data, run))
            layer.bias.copy_(torch_mnist.to_torch(bias.data))
    return ours, theirs, runs


def pairs(network):
    weights = list(network.parameters().values())
    return list(zip(weights[::2], weights[1::2]))


def errors(ours, theirs, runs, *, training):
    """{quantity: max |difference| / max |PyTorch's|} of a forward and a backward pass."""
    body, top = theirs
    rng = np.random.default_rng(2)
    size, channels = ours.definition["size"], ours.definition["channels"]
    pixels, labels = rng.random((BATCH, size, size, channels)), rng.integers(0, CLASSES, BATCH)
    cotangent = rng.standard_normal((BATCH, ours.feature_width))
    ours.train(training)
    seed_dropout(ours, np.random.default_rng(3))
    drawn = np.random.default_rng(3)
    for module in [*body.train(training), *top.train(training)]:
        module.rng = drawn

    x, tx = Tensor(pixels, requires_grad=True), torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy()).requires_grad_()
    logits, features = ours(x)
    their_features = body(tx)
    their_logits, their_features = top(their_features), their_features.flatten(1)
    loss = ops.softmax_cross_entropy(logits, Tensor(labels), reduction="sum") + ops.sum(features * Tensor(cotangent))
    gx, *gw = grad(loss, [x, *ours.parameters().values()])
    their_loss = torch.nn.functional.cross_entropy(their_logits, torch.from_numpy(labels), reduction="sum")
    (their_loss + (their_features * torch.from_numpy(torch_mnist.flat_to_torch(cotangent, runs[-1]))).sum()).backward()

    found = {
        "logits": (logits.data, their_logits),
        "features": (torch_mnist.flat_to_torch(features.data, runs[-1]), their_features),
        "d/dx": (gx.transpose(0, 3, 1, 2), tx.grad),
    }
    for i, (layer, run) in enumerate(zip(torch_mnist.layers(*theirs), runs, strict=True)):
        found[f"weight {i}"] = torch_mnist.to_torch(gw[2 * i], run).numpy(), layer.weight.grad
        found[f"bias {i}"] = gw[2 * i + 1], layer.bias.grad
    return {what: error(one, other.detach().numpy()) for what, (one, other) in found.items()}


def error(ours, theirs):
    assert ours.shape == theirs.shape and np.abs(theirs).max() > 0
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("size, channels", [(28, 1), (29, 1), (32, 3)])
@pytest.mark.parametrize("name", NAMES)
def test_everything_in_float64(name, size, channels, training):
    """At 29 pixels B's "same" is one zero more at the bottom and the right; in train mode both draw the same masks."""
    found = errors(*twins(name, size, channels), training=training)
    assert max(found.values()) <= 1e-9, found


def test_zeros_on_the_other_side_are_seen():
    """The comparison itself: PyTorch's padding turned round must not pass."""
    ours, (body, top), runs = twins("mnist_b", 29)
    pad = next(layer for layer in body if isinstance(layer, torch.nn.ZeroPad2d))
    assert pad.padding == (3, 4, 3, 4)
    pad.padding = (4, 3, 4, 3)
    assert errors(ours, (body, top), runs, training=False)["logits"] > 1e-3


@pytest.mark.parametrize("name", ["mnist_a", "mnist_b"])
def test_rows_in_another_order_are_seen(name):
    """The comparison itself: dense weights that are not carried from (pixel, channel) to (channel, pixel)."""
    ours, theirs, runs = twins(name, 32)
    i = runs.index(max(runs))
    with torch.no_grad():
        torch_mnist.layers(*theirs)[i].weight.copy_(torch_mnist.to_torch(pairs(ours)[i][0].data))
    assert errors(ours, theirs, runs, training=False)["logits"] > 1e-3
