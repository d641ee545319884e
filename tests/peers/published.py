"""Networks built by their own libraries with random weights, saved in those libraries' formats, compared with ours.

keras.applications and torchvision build their own networks; vggface.py builds those of keras-vggface.
"""

import itertools
import os
import sys
import types
from contextlib import contextmanager
from dataclasses import dataclass

os.environ["KERAS_BACKEND"] = "torch"  # before Keras is imported

import h5py
import keras
import numpy as np
import torch

try:
    import torchvision
except RuntimeError:  # its compiled operators are missing; its networks are plain Python, only this module wants them
    sys.modules["torchvision._meta_registrations"] = types.ModuleType("torchvision._meta_registrations")
    import torchvision
from keras.src.backend.common import dtypes
from keras.src.legacy.saving.legacy_h5_format import save_weights_to_hdf5_group
from torch.nn import functional as F

from minisatm import Tensor, grad, models, ops
from minisatm.data import faces
from minisatm.models.files import definition_of
from weights_convert.convert import arrange, convert, plan_of
from weights_convert.readers import read

from . import vggface

torch.set_num_threads(1)  # PyTorch's threads and NumPy's wait for each other
VERSIONS = f"Keras {keras.__version__} on PyTorch {torch.__version__}, torchvision {torchvision.__version__}"


@dataclass(frozen=True)
class Case:
    """A file that could have been published: source, network, format, and its input's side.

    other: another size to compare at. own: that size needs a file of its own, since the dense layers depend on it.
    """

    source: str
    network: str
    format: str
    size: int = 224
    other: int = 0
    own: bool = False

    @property
    def model(self):
        """The network's --model."""
        return self.network.removesuffix("_bn").removesuffix(" notop")

    def __str__(self):
        return f"{self.source} {self.network} {self.format}"


KERAS, TORCH, VGGFACE = "keras.applications", "torchvision", "keras-vggface"
CASES = (
    Case(KERAS, "vgg16", ".weights.h5", other=96, own=True),
    Case(KERAS, "resnet50", ".keras", other=160),
    Case(KERAS, "resnet50 notop", "weights .h5", other=97),
    Case(KERAS, "resnet101", "model .h5", other=96),
    Case(KERAS, "inception_v3", ".weights.h5", 299, 139),
    Case(KERAS, "inception_v3", "model .h5", 299, 150),
    Case(KERAS, "inception_resnet_v2", ".keras", 299, 128),
    Case(TORCH, "vgg16", ".pth"),
    Case(TORCH, "vgg16_bn", "old .pth"),
    Case(TORCH, "resnet50", ".safetensors", other=160),
    Case(TORCH, "resnet101", ".pth", other=97),
    Case(TORCH, "inception_v3", ".pth", 299, 139),
    Case(VGGFACE, "vgg16", "Keras 2 .h5", other=96, own=True),
    Case(VGGFACE, "resnet50", "Keras 2 .h5", other=201),  # its 7x7 pool at the end sees all only from 197 to 226
)


# --- peers --------------------------------------------------------------------------------------------------------


def draw(name, shape, fan_in, rng):
    """Random float32 weights, such that swapped or ignored ones change the result; name: the last word of theirs."""
    if name in ("gamma", "moving_variance"):
        return rng.uniform(0.5, 1.5, shape).astype(np.float32)
    if name in ("beta", "moving_mean", "bias"):
        return rng.uniform(-0.3, 0.3, shape).astype(np.float32)
    return rng.standard_normal(shape, np.float32) * np.float32(np.sqrt(2 / fan_in))


def gain(name, image):
    """A factor for He's kernels: below 1 in a first layer that sees 0..255, and before the sum of a residual block."""
    if image:
        return 1 / 64
    return 0.3 if any(word in name for word in ("_3_conv", "increase", ".conv3.", "block")) else 1.0


class KerasPeer:
    """A Keras network in float64; `save` writes the same weights as it was published, in float32."""

    def __init__(self, case, size, seed):
        self.case, self.size, rng = case, size, np.random.default_rng(seed)
        self.published = build_keras(case, size)
        caffe = case.network.split("_")[0] != "inception"
        values = []
        for v in self.published.weights:
            layer, _, word = v.path.rpartition("/")
            value = draw(word, v.shape, np.prod(v.shape[:-1]), rng)
            if word == "kernel":
                residual = "resnet" in case.network and not layer.startswith("block8_10")
                value *= np.float32(gain(layer if residual else "", caffe and v.shape[-2] == 3))
            values.append(value)
        self.published.set_weights(values)
        with float64():
            self.net = build_keras(case, size)
            last = {"vgg16": "fc2"}.get(case.network, "avg_pool")
            if case.source == VGGFACE:
                last = {"vgg16": "fc7__relu"}.get(case.network, "flatten")
            self.both = keras.Model(self.net.input, [self.net.get_layer(last).output, self.net.output])
        self.values, self.training = values, False
        self.restore()

    def __call__(self, x):
        """(N, H, W, 3) in [0, 1] to (logits, features); without a top the logits are None."""
        with float64():
            features, logits = self.both(self.preprocess(x * 255), training=self.training)
        return (None if self.case.network.endswith("notop") else logits), features

    def preprocess(self, x):
        if self.case.source == VGGFACE:  # keras_vggface/utils.py, versions 1 (VGG16) and 2 (ResNet50)
            mean = {"vgg16": (93.5940, 104.7624, 129.1863), "resnet50": (91.4953, 103.8827, 131.0912)}
            return x.flip(-1) - torch.tensor(mean[self.case.network], dtype=x.dtype)
        return getattr(keras.applications, self.case.model.replace("resnet50", "resnet").replace("resnet101", "resnet")
                       ).preprocess_input(x)  # fmt: skip

    def train(self, training):
        self.training = training

    def restore(self):
        """The running statistics as they were published."""
        self.net.set_weights(self.values)

    def save(self, path, *, stepped=False):
        """Write the file; stepped: with the running statistics after a step in train mode, in float64."""
        net = self.net if stepped else self.published
        if self.case.format == ".weights.h5":
            net.save_weights(path)
        elif self.case.format in (".keras", "model .h5"):
            net.save(path)
        elif self.case.format == "weights .h5":  # what save_weights of Keras 2 wrote and keras.applications publishes
            with h5py.File(path, "w") as file:
                save_weights_to_hdf5_group(file, net)
        else:
            vggface.save_as_keras_2(net, path)


class TorchPeer:
    def __init__(self, case, size, seed):
        self.case, self.size, rng = case, size, np.random.default_rng(seed)
        settings = dict(weights=None)
        if case.network == "inception_v3":
            settings |= dict(transform_input=True, init_weights=False)  # as with its pretrained weights
        self.net = getattr(torchvision.models, case.network)(**settings)
        for path, module in self.net.named_modules():
            norm = isinstance(module, torch.nn.BatchNorm2d)
            words = {"weight": "gamma" if norm else "kernel", "bias": "beta",
                     "running_mean": "moving_mean", "running_var": "moving_variance"}  # fmt: skip
            for name, value in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
                if name != "num_batches_tracked":
                    drawn = draw(words[name], value.shape, np.prod(value.shape[1:]), rng)
                    if words[name] == "kernel":
                        drawn *= np.float32(gain(path + ".", False) if "resnet" in case.network else 1)
                    value.data = torch.from_numpy(drawn)
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        last = self.net.classifier[-1] if case.model == "vgg16" else self.net.fc
        last.register_forward_hook(lambda module, inputs, output: setattr(self, "features", inputs[0]))
        enum = {"vgg16": "VGG16", "vgg16_bn": "VGG16_BN", "resnet50": "ResNet50", "resnet101": "ResNet101",
                "inception_v3": "Inception_V3"}[case.network]  # fmt: skip
        self.transform = getattr(torchvision.models, f"{enum}_Weights").DEFAULT.transforms()
        self.state = {name: value.clone() for name, value in self.net.state_dict().items()}  # float32, as published
        if case.network == "inception_v3":  # its auxiliary head is in the file; below 299 pixels it cannot be called
            self.net.AuxLogits, self.net.aux_logits = None, False
        self.net = self.net.double()

    def __call__(self, x):
        x = torchvision.transforms.functional.normalize(x.permute(0, 3, 1, 2), self.transform.mean, self.transform.std)
        return self.net(x), self.features

    def train(self, training):
        self.net.train(training)

    def restore(self):
        self.net.load_state_dict(self.state, strict=False)

    def save(self, path, *, stepped=False):
        state = self.net.state_dict() if stepped else self.state
        if self.case.format == ".safetensors":
            from safetensors.torch import save_file

            save_file(state, path)
        else:
            torch.save(state, path, _use_new_zipfile_serialization=self.case.format != "old .pth")


def peer(case, size, seed=0):
    return (TorchPeer if case.source == TORCH else KerasPeer)(case, size, seed)


@contextmanager
def float64():
    """A block in which Keras computes in float64: inputs, layers, and what its promotion table rounds to float32.

    Batch norm and means use that table; the value here is the one that it has for TensorFlow.
    """
    rounded = dtypes.BIT64_TO_BIT32_DTYPE["float64"]
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    dtypes.BIT64_TO_BIT32_DTYPE["float64"] = "float64"
    try:
        yield
    finally:
        keras.config.set_floatx("float32")
        keras.config.set_dtype_policy("float32")
        dtypes.BIT64_TO_BIT32_DTYPE["float64"] = rounded


def build_keras(case, size):
    shape = (size, size, 3)
    if case.source == VGGFACE:
        return {"vgg16": vggface.vgg16, "resnet50": vggface.resnet50}[case.network](shape)
    name = {"vgg16": "VGG16", "resnet50": "ResNet50", "resnet101": "ResNet101", "inception_v3": "InceptionV3",
            "inception_resnet_v2": "InceptionResNetV2"}[case.model]  # fmt: skip
    top = dict(classifier_activation=None)
    if case.network.endswith("notop"):
        top = dict(include_top=False, pooling="avg")
    return getattr(keras.applications, name)(weights=None, input_shape=shape, **top)


# --- comparison ---------------------------------------------------------------------------------------------------


def published(case, folder, size):
    """(the peer, our file) of a file made at this size; converted with --size where its shapes depend on the size."""
    theirs = peer(case, size)
    ending = case.format.replace("old ", "").split()[-1]
    path, out = folder / f"{case.source}{ending}", folder / "ours.h5"
    theirs.save(path)
    other = size if case.own and size != case.size else None
    lines = convert(path, out, model=case.model, source=case.source, size=other)
    left = [line for line in lines if "left at its random start" in line]
    drawn = [line for line in lines if "drawn at random" in line]
    assert not left and len(drawn) == (2 if case.network.endswith("notop") else 0), left + drawn
    return theirs, out


def network(out, size):
    """Our network from our file and a size alone, in float64 and without dropout."""
    definition = definition_of(out)
    rate = {"dropout": 0.0} if "dropout" in definition else {}
    return models.build(definition["name"], weights=out, size=size, **rate).astype(np.float64)


def images(size, count):
    """Half random pixels, half drawn faces: (N, size, size, 3) float64 in [0, 1], and labels.

    These subjects are nowhere overexposed: where pixels are equal, rounding decides which one a max pool takes, and
    with it where the input gradient goes.
    """
    rng = np.random.default_rng([size, count])
    drawn = [faces.draw(subject, subject=subject, size=size) / 255 for subject in (1, 3)[: count // 2]]
    return np.stack([*rng.random((count - len(drawn), size, size, 3)), *drawn]), rng.integers(0, 1000, count)


def error(ours, theirs):
    """max|a - b| / max|b|."""
    theirs = theirs.detach().numpy() if isinstance(theirs, torch.Tensor) else theirs
    assert ours.shape == theirs.shape, (ours.shape, theirs.shape)
    assert ours.dtype == theirs.dtype == np.float64
    scale = np.abs(theirs).max()
    assert np.isfinite(scale) and scale > 0, "nothing to compare: the peer's values are all zero, or not finite"
    return float(np.abs(ours - theirs).max() / scale)


def compare(ours, theirs, *, count, training, folder):
    """{quantity: relative error} of one step on `count` images, half of them random.

    The input gradient is that of the summed cross-entropy; without a top, of a random combination of the features.
    """
    size = ours.definition["size"]
    pixels, labels = images(size, count)
    x, tx = Tensor(pixels, requires_grad=True), torch.from_numpy(pixels).requires_grad_()
    before = {name: a.copy() for name, a in ours.buffers().items()}
    theirs.restore()
    theirs.train(training)
    with ours.mode(training):
        logits, features = ours(x)
    their_logits, their_features = theirs(tx)
    errors = {"features": error(features.data, their_features)}
    if their_logits is None:
        h = np.random.default_rng(0).standard_normal(features.shape)
        loss, their_loss = ops.sum(features * Tensor(h)), (their_features * torch.from_numpy(h)).sum()
    else:
        errors["logits"] = error(logits.data, their_logits)
        loss = ops.softmax_cross_entropy(logits, Tensor(labels), reduction="sum")
        their_loss = F.cross_entropy(their_logits, torch.from_numpy(labels), reduction="sum")
    (gx,), (their_gx,) = grad(loss, [x]), torch.autograd.grad(their_loss, [tx])
    errors["input gradient"] = error(gx, their_gx)
    if training and before:
        errors["running statistics"] = statistics_error(ours, theirs, before, folder / "stepped")
    return errors


def statistics_error(ours, theirs, before, path):
    """The largest error of a running mean or variance after the step: the peer's are read from a file of it as well."""
    path = path.with_suffix(theirs.case.format.replace("old ", "").split()[-1])
    theirs.save(path, stepped=True)
    plan = plan_of(read(path), theirs.case.model, theirs.case.source, None, None)
    found = {}
    for pair in plan.pairs:
        if pair.ours in before:
            found[pair.ours] = arrange(plan.tensors[pair.theirs], pair, before[pair.ours].shape)
    assert found.keys() == before.keys()
    assert all(not np.array_equal(found[name], before[name]) for name in found), "no step was taken"
    return max(error(ours.buffers()[name], array) for name, array in found.items())


def steps(case, folder, plan):
    """(size, training, errors) for each (size, training, images) of the plan: one file, at several sizes.

    Where dense layers see what is left of the image, each size has a file of its own, converted with --size.
    """
    for size, group in itertools.groupby(plan, lambda step: step[0]):
        if case.own or not (folder / "ours.h5").exists():
            (folder / "ours.h5").unlink(missing_ok=True)
            theirs, out = published(case, folder, size)
        if theirs.size != size:
            theirs = peer(case, size)
        for _, training, count in group:
            ours = network(out, size)
            yield size, training, compare(ours, theirs, count=count, training=training, folder=folder)
