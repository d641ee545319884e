"""Thin networks of every name map, with weights drawn by a rule, and the numbers that they then compute.

The numbers were printed by the peers (test_peer_fingerprints.py, which still compares them): Keras, torchvision, and
for Caffe and the CIFAR network PyTorch's functions in the order of their published definitions.
"""

import json
import re
import zlib
from pathlib import Path

import numpy as np
import test_convert

from minisatm import Tensor, grad, models, ops
from minisatm.layers import seed_dropout
from weights_convert.convert import convert
from weights_convert.maps import MAPS

WIDTH = test_convert.WIDTH
SIZES = {"lenet": 28, "resnet20": 32, "vgg16": 64, "resnet50": 64, "resnet101": 64}  # the Inception networks: 75
CASES = dict(zip(test_convert.IDS, MAPS))
FROZEN = json.loads(Path(__file__).with_name("golden").joinpath("convert_fingerprints.json").read_text())


def size_of(m):
    return 198 if m.source == "keras-vggface" and m.model == "resnet50" else SIZES.get(m.model, 75)


def classes_of(m):
    return m.classes if m.source.startswith("VGG_") else 5


def spread_of(name):
    """The spread of what the batch norms of this case get: of the size of eps's root, so that eps shows."""
    if "bn" not in name and ("vgg16" in name or "lenet" in name):
        return 1.0  # it has no batch norm
    return 0.1 if "inception" in name or "vggface" in name else 0.01


def rule(case, name, shape):
    """A tensor as a function of its name and shape in the source; case: a key of CASES."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    word = re.split(r"[./]", name)[-1]
    spread = 1.0 if re.match(r"block(35|17|8)_", name) else spread_of(case)  # these have no batch norm after them
    if word in ("moving_variance", "running_var"):
        array = spread**2 * rng.uniform(0.5, 1.5, shape)
    elif word in ("moving_mean", "running_mean"):
        array = 0.3 * spread * rng.standard_normal(shape)
    elif len(shape) == 1 and word in ("gamma", "weight"):
        array = rng.uniform(0.5, 1.5, shape)
    elif len(shape) == 1:
        array = rng.uniform(-0.3, 0.3, shape) * (spread if "_conv/" in name else 1)
    else:
        fan_in = np.prod(shape[:-1] if case.startswith("keras") else shape[1:])
        array = rng.standard_normal(shape) * np.sqrt(2 / fan_in) * (spread if len(shape) == 4 else 1)
    return array.astype(np.float32)


def published_tensors(case):
    """The source's names, with tensors drawn by the rule in the source's shapes."""
    m = CASES[case]
    network = models.build(m.model, classes=classes_of(m), width=WIDTH, size=size_of(m), channels=m.channels, rng=1,
                           **m.variant)  # fmt: skip
    shapes = {name: array.shape for name, array in test_convert.as_published(m, network).items()}
    return {name: rule(case, name, shape) for name, shape in shapes.items()}


def images(m):
    return np.random.default_rng(7).random((2, size_of(m), size_of(m), m.channels))


def weights_of_logits(shape):
    """The loss is the sum of logits times these."""
    return np.cos(np.arange(np.prod(shape), dtype=np.float64)).reshape(shape)


def readings(logits, gradient, statistics):
    """A few numbers of each, which depend on all."""
    drawn = np.random.default_rng(8).standard_normal((4, gradient.size)) @ gradient.ravel()
    return {"logits": logits[0, :4].tolist(), "gradient": drawn.tolist(), "statistics": list(statistics)}


def ours(case, folder):
    """The readings of our network from the converted file, and its definition."""
    m = CASES[case]
    np.savez(folder / "f.npz", **published_tensors(case))
    convert(folder / "f.npz", folder / "o.h5", model=m.model, size=size_of(m), width=WIDTH)
    network = models.build(None, weights=str(folder / "o.h5")).astype(np.float64).eval()
    x = Tensor(images(m), requires_grad=True)
    logits, _ = network(x)
    (gradient,) = grad(ops.sum(logits * Tensor(weights_of_logits(logits.shape))), [x])
    seed_dropout(network.train(), np.random.default_rng(0))
    network(Tensor(images(m)))
    after = network.buffers()
    first = [next((a for name, a in after.items() if name.endswith(word)), None) for word in (".mean", ".var")]
    return readings(logits.data, gradient, [float(a.sum()) for a in first if a is not None]), network.definition


def agree(found, frozen):
    """Whether two readings are the same to 1e-6 of the largest number of each kind."""
    for kind in ("logits", "gradient", "statistics"):
        a, b = np.array(found[kind]), np.array(frozen[kind])
        assert a.shape == b.shape, kind
        assert np.abs(a - b).max(initial=0) <= 1e-6 * np.abs(b).max(initial=1e-300), (kind, a, b)
