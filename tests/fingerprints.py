"""Fingerprints: a few numbers for each network and each field of its definition, with weights drawn by a simple rule.

The numbers in fingerprints.json were computed by PyTorch and Keras (peers/fingerprint_peers.py), not by this package.
"""

import json
from pathlib import Path
from zlib import crc32

import numpy as np

from minisatm import Tensor, grad, models, ops
from minisatm.layers import seed_dropout

FROZEN = Path(__file__).with_name("fingerprints.json")
BATCH, CLASSES, DROPOUT_SEED = 3, 5, 3
TOLERANCE = 1e-7  # of the larger of a quantity's two numbers; float64 leaves 1e-9

MNIST = ("mnist_a", "mnist_b", "mnist_c", "mnist_d")
THIN = {
    "vgg16": {"width": 1 / 32, "size": 64},
    "resnet50": {"width": 1 / 16, "size": 48},
    "resnet101": {"width": 1 / 32, "size": 48},
    "resnet20": {"width": 1 / 4, "size": 16},
    "inception_v3": {"width": 1 / 16, "size": 75},
    "inception_resnet_v2": {"width": 1 / 16, "size": 75},
    "lenet": {"width": 1 / 5, "size": 29, "channels": 1},
    **dict.fromkeys(MNIST, {"width": 1 / 16, "size": 29, "channels": 1}),
}
PIXELS = {"mean": (0.4, 0.5, 0.7), "std": (0.2, 0.3, 0.5)}
GREY = {"channels": 1, "size": 32}
SHORT = {"blocks": (2, 1, 1, 1)}  # a field alone: a shorter network shows it as well
CAFFE = {"stride_in": "1x1", "pool_padding": 0, "pool_ceil": True, "bgr": True, **PIXELS}
KERAS_RESNET = {"stride_in": "1x1", "conv_bias": True, "eps": 1.001e-5, "momentum": 0.01, "unbiased": False}
KERAS_INCEPTION = {"bn_scale": False, "momentum": 0.01, "unbiased": False, "count_padding": False}
RESNET_FIELDS = (
    {}, {"stride_in": "1x1"}, {"conv_bias": True}, {"eps": 1e-3}, {"momentum": 0.01}, {"unbiased": False},
    {"stem_padding": "same"}, {"pool_padding": 0}, {"pool_padding": 0, "pool_ceil": True, "size": 52},
    {"shortcut": "zero-padded"}, {"stem": "cifar", "size": 12}, {"bottleneck": False}, {"first_width": 48},
    {"bgr": True}, {"bgr": True, **PIXELS}, {"mean": PIXELS["mean"]}, {"std": PIXELS["std"]}, {"channels": 1}, CAFFE,
    KERAS_RESNET, {"size": 45},
)  # fmt: skip
INCEPTION_FIELDS = (
    {"bn_scale": False}, {"eps": 1e-2}, {"momentum": 0.01}, {"unbiased": False}, {"count_padding": False},
    {"bgr": True, **PIXELS}, {"channels": 1}, {"size": 81}, KERAS_INCEPTION,
)  # fmt: skip
VARIANTS = {
    "vgg16": ({}, {"dropout": 0.3}, {"dropout": 0.0}, {"bgr": True, **PIXELS}, {"bgr": True}, {"batch_norm": True},
              {"mean": PIXELS["mean"]}, {"std": PIXELS["std"]}, {"size": 70}, GREY),
    "resnet50": ({}, *({**SHORT, **fields} for fields in RESNET_FIELDS)),
    "resnet101": ({},),
    "resnet20": ({}, {"size": 15}, {"eps": 1e-3}, {"shortcut": "projection"}, {"bgr": True, **PIXELS}, {"channels": 1}),
    "inception_v3": ({}, *INCEPTION_FIELDS),
    "inception_resnet_v2": ({}, {"size": 81}, KERAS_INCEPTION),  # at 81 pixels max pools cut a row off
    "lenet": ({}, {"size": 28}, {"channels": 3, **PIXELS}, {"mean": (0.3,)}, {"std": (0.3,)}),
    **{name: ({}, {"dropout": 0.3}, {"size": 32, "channels": 3, **PIXELS}) for name in MNIST},
}  # fmt: skip


def shown(name, variant):
    return " ".join([name, *(f"{key}={value}".replace(" ", "") for key, value in variant.items())])


CASES = {shown(name, variant): (name, variant) for name, variants in VARIANTS.items() for variant in variants}
MODES = {"eval": False, "train": True}


def uniform(name, shape, low=-1.0, high=1.0):
    """Numbers that depend on a name and a shape alone; RandomState draws the same in every version of NumPy."""
    return np.random.RandomState(crc32(name.encode())).uniform(low, high, shape)


def rule(name, shape):
    """The value of a weight or buffer: the whole rule. Every one of them shows in the fingerprint."""
    leaf = name.rpartition(".")[2]
    if leaf == "weight":
        return uniform(name, shape) * np.sqrt(6 / np.prod(shape[:-1]))  # He's spread
    if leaf == "gamma":  # the last of a residual block is small, or the blocks add up to millions
        last = ".conv3." in name or (".conv2." in name and "stage" in name)
        return uniform(name, shape, 0.5, 1.5) * (0.4 if last else 1)
    return uniform(name, shape, 0.5, 1.5) if leaf == "var" else uniform(name, shape, -0.3, 0.3)


def build(name, variant):
    """Our network, in float64, with the weights of the rule."""
    network = models.build(name, **{"classes": CLASSES, **THIN[name], **variant}).astype(np.float64)
    network.set_state({key: rule(key, array.shape) for key, array in network.state().items()})
    return network


def images(name, variant):
    shape = {"channels": 3, **THIN[name], **variant}
    return uniform("images", (BATCH, shape["size"], shape["size"], shape["channels"]), 0, 1)


def weights_of(quantity, shape):
    """The two projections of a quantity."""
    return [uniform(f"{quantity} {k}", shape) for k in (1, 2)]


def reduced(quantities):
    """{quantity: two numbers} of {quantity: array}."""
    return {q: [float((a * w).sum()) for w in weights_of(q, a.shape)] for q, a in quantities.items()}


def joined(buffers):
    """The running statistics, as one array."""
    return {"statistics": np.concatenate([*buffers.values()])} if buffers else {}


def ours(name, variant, training):
    """The fingerprint of our network: logits, features, the gradient of an image, and running statistics after it."""
    network = build(name, variant).train(training)
    seed_dropout(network, np.random.default_rng(DROPOUT_SEED))
    x = Tensor(images(name, variant), requires_grad=True)
    logits, features = network(x)
    one, two = (weights_of(q, a.shape)[0] for q, a in (("logits", logits), ("features", features)))
    (gx,) = grad(ops.sum(logits * Tensor(one)) + ops.sum(features * Tensor(two)), [x])
    quantities = {"logits": logits.data, "features": features.data, "gradient": gx, **joined(network.buffers())}
    return reduced(quantities)


def frozen():
    return json.loads(FROZEN.read_text())


def differences(found, wanted):
    """{quantity: the largest difference as a share of the larger wanted number}."""
    assert found.keys() == wanted.keys()
    return {q: float(np.abs(np.subtract(found[q], wanted[q])).max() / np.abs(wanted[q]).max()) for q in wanted}


def same(found, wanted):
    off = {q: f"{e:.1e}" for q, e in differences(found, wanted).items() if not e <= TOLERANCE}
    assert not off, f"off by these shares: {off}"
