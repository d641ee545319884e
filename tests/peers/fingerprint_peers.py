"""The fingerprints by PyTorch and Keras: the same weights, images and projections, but none of our layers.

VGG16, the ResNets and the networks for MNIST are written here with PyTorch's functions; InceptionV3 is torchvision's
and InceptionResNetV2 that of Keras, both made thin. `python -m peers.fingerprint_peers` writes fingerprints.json.
"""

import functools
import json
import sys
import types

import fingerprints
import numpy as np
from torch.nn import functional as F

from minisatm import layers

from .published import float64, keras, torch, torchvision

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
STAGES = {"resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3), "resnet20": (3, 3, 3)}
VGG = (2, 2, 3, 3, 3)  # the convolutions of each block


def first(x):
    """(N, H, W, C) -> (N, C, H, W)"""
    return x.permute(0, 3, 1, 2)


def last(x):
    return x.permute(0, 2, 3, 1)


def normalised(x, mean, std, bgr=False):
    """For x (N, H, W, C); mean and std of the paper's source unless given."""
    x = x.flip(-1) if bgr else x
    return (x - torch.tensor(mean, dtype=x.dtype)) / torch.tensor(std, dtype=x.dtype)


def imagenet(variant):
    means = IMAGENET if variant.get("channels", 3) == 3 else [(sum(values) / 3,) for values in IMAGENET]
    return variant.get("mean", means[0]), variant.get("std", means[1]), variant.get("bgr", False)


class Peer:
    """PyTorch's functions on weights with our names."""

    def __init__(self, name, variant, state, training):
        self.name, self.variant, self.training = name, variant, training
        self.w = {key: torch.from_numpy(array.copy()) for key, array in state.items()}
        self.rng = np.random.default_rng(fingerprints.DROPOUT_SEED)

    def __call__(self, x):
        """The logits and the features (flattened with channels last), of x (N, H, W, C)."""
        kind = "resnet" if self.name in STAGES else "mnist" if self.name.startswith("mnist") else self.name
        return getattr(self, kind)(x)

    def statistics(self):
        return {key: a.numpy() for key, a in self.w.items() if key.endswith((".mean", ".var"))}

    # layers

    def conv(self, x, name, stride=1, padding=0):
        weight = self.w[f"{name}.weight"].permute(3, 2, 0, 1)
        return F.conv2d(x, weight, self.w.get(f"{name}.bias"), stride=stride, padding=padding)

    def dense(self, x, name):
        return F.linear(x, self.w[f"{name}.weight"].T, self.w[f"{name}.bias"])

    def norm(self, x, name):
        mean, var, gamma, beta = (self.w[f"{name}.{leaf}"] for leaf in ("mean", "var", "gamma", "beta"))
        eps, momentum = self.variant.get("eps", 1e-5), self.variant.get("momentum", 0.1)
        before = var.clone()
        out = F.batch_norm(x, mean, var, gamma, beta, self.training, momentum, eps)
        if self.training and not self.variant.get("unbiased", True):
            biased = x.detach().var(dim=(0, 2, 3), unbiased=False)
            self.w[f"{name}.var"] = (1 - momentum) * before + momentum * biased
        return out

    def conv_norm(self, x, name, stride=1, padding=0):
        return self.norm(self.conv(x, f"{name}.conv", stride, padding), f"{name}.bn")

    def dropout(self, x, rate):
        """x has its channels last."""
        if not self.training or rate == 0:
            return x
        return x * torch.from_numpy(self.rng.random(tuple(x.shape), np.float32) >= rate) / (1 - rate)

    # networks

    def vgg16(self, x):
        rate = self.variant.get("dropout", 0.5)
        x = first(normalised(x, *imagenet(self.variant)))
        conv = self.conv_norm if self.variant.get("batch_norm") else self.conv
        for block, convolutions in enumerate(VGG, 1):
            for i in range(convolutions):
                x = F.relu(conv(x, f"conv{block}_{i + 1}", 1, 1))
            x = F.max_pool2d(x, 2)
        x = self.dropout(F.relu(self.dense(last(x).flatten(1), "fc6")), rate)
        features = F.relu(self.dense(x, "fc7"))
        return self.dense(self.dropout(features, rate), "fc8"), features

    def resnet(self, x):
        v, cifar = self.variant, self.name == "resnet20"
        x = first(normalised(x, *imagenet(v)))
        if v.get("stem", "cifar" if cifar else "imagenet") == "cifar":
            x = F.relu(self.conv_norm(x, "stem", 1, 1))
        else:
            if v.get("stem_padding") == "same":  # of 48 pixels: five zeros, and the odd one at the end
                x, padding = F.pad(x, (2, 3, 2, 3)), 0
            else:
                padding = 3
            x = F.relu(self.conv_norm(x, "stem", 2, padding))
            x = F.max_pool2d(x, 3, 2, v.get("pool_padding", 1), ceil_mode=v.get("pool_ceil", False))
        for stage, count in enumerate(v.get("blocks", STAGES[self.name]), 1):
            for i in range(count):
                x = self.block(x, f"stage{stage}.{i}", 2 if stage > 1 and i == 0 else 1)
        features = x.mean(dim=(2, 3))
        return self.dense(features, "fc"), features

    def block(self, x, name, stride):
        v, cifar = self.variant, self.name == "resnet20"
        if v.get("bottleneck", not cifar):
            one, two = (stride, 1) if v.get("stride_in") == "1x1" else (1, stride)
            out = F.relu(self.conv_norm(x, f"{name}.conv1", one))
            out = F.relu(self.conv_norm(out, f"{name}.conv2", two, 1))
            out = self.conv_norm(out, f"{name}.conv3")
        else:
            out = F.relu(self.conv_norm(x, f"{name}.conv1", stride, 1))
            out = self.conv_norm(out, f"{name}.conv2", 1, 1)
        if out.shape != x.shape:
            if v.get("shortcut", "zero-padded" if cifar else "projection") == "projection":
                x = self.conv_norm(x, f"{name}.project", stride)
            else:
                missing = out.shape[1] - x.shape[1]
                x = F.pad(x[:, :, ::stride, ::stride], (0, 0, 0, 0, missing // 2, missing - missing // 2))
        return F.relu(out + x)

    def lenet(self, x):
        x = x * 255 / 256 if not {"mean", "std"} & self.variant.keys() else normalised(
            x, self.variant.get("mean", 0), self.variant.get("std", 256 / 255))  # fmt: skip
        x = F.max_pool2d(self.conv(first(x), "conv1"), 2, ceil_mode=True)
        x = F.max_pool2d(self.conv(x, "conv2"), 2, ceil_mode=True)
        features = F.relu(self.dense(last(x).flatten(1), "ip1"))
        return self.dense(features, "ip2"), features

    def mnist(self, x):
        """Table 6 of Tramer et al. 2018."""
        usual = {"a": (0.25, 0.5), "b": (0.2, 0.5), "c": (0.25, 0.5), "d": (0.5,) * 4}[self.name[-1]]
        rates = (self.variant["dropout"],) * len(usual) if "dropout" in self.variant else usual
        x = normalised(x, self.variant.get("mean", 0.0), self.variant.get("std", 1.0))
        if self.name == "mnist_d":
            x = x.flatten(1)
            for i in range(4):
                x = F.relu(self.dense(x if i == 0 else self.dropout(x, rates[i - 1]), f"hidden.{2 * i}"))
        elif self.name == "mnist_b":
            size = x.shape[1]
            zeros = max((-(-size // 2) - 1) * 2 + 8 - size, 0)
            x = F.pad(first(self.dropout(x, rates[0])), (zeros // 2, zeros - zeros // 2) * 2)
            for i, stride in ((1, 2), (2, 2), (3, 1)):
                x = F.relu(self.conv(x, f"hidden.{i}", stride))
            x = last(x).flatten(1)
        else:
            x = first(x)
            for i in (0, 1):
                x = F.relu(self.conv(x, f"hidden.{i}"))
            x = F.relu(self.dense(self.dropout(last(x), rates[0]).flatten(1), "hidden.3"))
        return self.dense(self.dropout(x, rates[-1]), "fc"), x


# --- torchvision's InceptionV3 and the two of Keras, with a sixteenth of the channels (all are multiples of 16)


def units(network):
    """The names of our convolutions with batch norm, and of those without, in definition order."""
    norms = [name for name, module in network.modules() if isinstance(module, layers.ConvNorm)]
    plain = [name for name, module in network.modules() if isinstance(module, layers.Conv2D)]
    return norms, [name for name in plain if name.removesuffix(".conv") not in norms]


class TorchvisionInception:
    """torchvision's Inception3, whose order of definition is ours."""

    def __init__(self, variant, state, training, network):
        part, blocks, made = 16, torchvision.models.inception, []
        eps, momentum = variant.get("eps", 1e-3), variant.get("momentum", 0.1)

        class Thin(torch.nn.Module):
            def __init__(self, channels, filters, **place):
                super().__init__()
                made.append(self)
                # the first layer is thin in its filters only
                channels = variant.get("channels", 3) if channels == 3 else channels // part
                self.conv = torch.nn.Conv2d(channels, filters // part, bias=False, **place)
                self.bn = torch.nn.BatchNorm2d(filters // part, eps=eps, momentum=momentum)

            def forward(self, x):
                return F.relu(self.bn(self.conv(x)))

        thin = [functools.partial(getattr(blocks, f"Inception{k}"), conv_block=Thin) for k in ("A", "B", "C", "D", "E")]
        self.net = blocks.Inception3(inception_blocks=[Thin, *thin, None], aux_logits=False, init_weights=False,
                                     dropout=0.0)  # fmt: skip
        self.net.fc = torch.nn.Linear(2048 // part, fingerprints.CLASSES)
        self.net.fc.register_forward_hook(lambda module, inputs, output: setattr(self, "features", inputs[0]))
        self.net.double().train(training)
        self.units = dict(zip(units(network)[0], made, strict=True))
        give = lambda theirs, key, turn=lambda a: a: theirs.data.copy_(torch.from_numpy(turn(state[key]).copy()))
        for name, unit in self.units.items():
            give(unit.conv.weight, f"{name}.conv.weight", lambda a: a.transpose(3, 2, 0, 1))
            for key, theirs in (("gamma", unit.bn.weight), ("beta", unit.bn.bias), ("mean", unit.bn.running_mean),
                                ("var", unit.bn.running_var)):  # fmt: skip
                if f"{name}.bn.{key}" in state:
                    give(theirs, f"{name}.bn.{key}")
        give(self.net.fc.weight, "fc.weight", np.transpose)
        give(self.net.fc.bias, "fc.bias")
        half = (0.5,) * variant.get("channels", 3)
        self.pixels = variant.get("mean", half), variant.get("std", half), variant.get("bgr", False)

    def __call__(self, x):
        return self.net(first(normalised(x, *self.pixels))), self.features

    def statistics(self):
        norms = [(f"{name}.bn", unit.bn) for name, unit in self.units.items()]
        return {f"{name}.{key}": getattr(bn, f"running_{key}").numpy() for name, bn in norms for key in ("mean", "var")}


class KerasInception:
    """keras.applications' InceptionV3 and InceptionResNetV2, whose order of definition is ours."""

    def __init__(self, name, variant, state, training, network):
        module = sys.modules[f"keras.src.applications.{name}"]
        self.variant, self.training, made = variant, training, []
        eps, momentum = variant.get("eps", 1e-3), variant.get("momentum", 0.1)

        def conv2d_bn(x, filters, *size, strides=1, padding="same", activation="relu", use_bias=False, name=None):
            size = size if len(size) == 2 else size[0]  # InceptionV3 gives two numbers, InceptionResNetV2 one or a list
            filters = filters if use_bias else filters // 16  # the convolution at the end of a residual block
            unit = [keras.layers.Conv2D(filters, size, strides=strides, padding=padding, use_bias=use_bias)]
            if not use_bias:
                scale = variant.get("bn_scale", True)
                unit.append(keras.layers.BatchNormalization(scale=scale, epsilon=eps, momentum=1 - momentum))
            made.append(unit)
            for layer in unit:
                x = layer(x)
            return keras.layers.Activation(activation)(x) if activation else x

        def average(pool, strides, padding):  # Keras counts no zeros around the image; PyTorch does
            pad = keras.layers.ZeroPadding2D(1)
            pool = keras.layers.AveragePooling2D(pool, strides=strides, padding="valid")
            return lambda x: pool(pad(x))

        if not variant.get("count_padding", True):
            average = keras.layers.AveragePooling2D
        before = module.conv2d_bn, module.layers
        patched = types.SimpleNamespace(**vars(keras.layers) | {"AveragePooling2D": average})
        module.conv2d_bn, module.layers = conv2d_bn, patched
        build = getattr(keras.applications, {"inception_v3": "InceptionV3"}.get(name, "InceptionResNetV2"))
        side = variant.get("size", fingerprints.THIN[name]["size"])
        try:
            with float64():
                net = build(weights=None, input_shape=(side, side, variant.get("channels", 3)), pooling="avg",
                            classes=fingerprints.CLASSES, classifier_activation=None)  # fmt: skip
                self.net = keras.Model(net.input, [net.output, net.get_layer("avg_pool").output])
        finally:
            module.conv2d_bn, module.layers = before
        norms, plain = units(network)
        self.norms = dict(zip(norms, [unit for unit in made if len(unit) == 2], strict=True))
        for key, (conv, bn) in self.norms.items():
            conv.set_weights([state[f"{key}.conv.weight"]])
            leaves = [leaf for leaf in ("gamma", "beta", "mean", "var") if f"{key}.bn.{leaf}" in state]
            bn.set_weights([state[f"{key}.bn.{leaf}"] for leaf in leaves])
        for key, (conv,) in zip(plain, [unit for unit in made if len(unit) == 1], strict=True):
            conv.set_weights([state[f"{key}.weight"], state[f"{key}.bias"]])
        net.get_layer("predictions").set_weights([state["fc.weight"], state["fc.bias"]])
        half = (0.5,) * variant.get("channels", 3)
        self.pixels = variant.get("mean", half), variant.get("std", half), variant.get("bgr", False)
        self.state = state

    def __call__(self, x):
        with float64():
            return self.net(normalised(x, *self.pixels), training=self.training)

    def statistics(self):
        found = {}
        for key, (conv, bn) in self.norms.items():
            mean, var = (np.asarray(a.detach()) for a in (bn.moving_mean.value, bn.moving_variance.value))
            if self.training and self.variant.get("unbiased", True):  # Keras takes the batch's variance over n
                n = fingerprints.BATCH * np.prod(conv.output.shape[1:3])
                old = (1 - self.variant.get("momentum", 0.1)) * self.state[f"{key}.bn.var"]
                var = old + (var - old) * n / (n - 1)
            found |= {f"{key}.bn.mean": mean, f"{key}.bn.var": var}
        return found


def peer(name, variant, training):
    network = fingerprints.build(name, variant)  # for the names and shapes of the weights alone
    state = {key: fingerprints.rule(key, array.shape) for key, array in network.state().items()}
    by_keras = name == "inception_resnet_v2" or not {"unbiased", "count_padding"}.isdisjoint(variant)
    if not name.startswith("inception"):
        return Peer(name, variant, state, training)
    if by_keras:
        return KerasInception(name, variant, state, training, network)
    return TorchvisionInception(variant, state, training, network)


def theirs(name, variant, training):
    """The fingerprint as PyTorch or Keras computes it."""
    network = peer(name, variant, training)
    x = torch.from_numpy(fingerprints.images(name, variant)).requires_grad_()
    logits, features = network(x)
    one, two = (fingerprints.weights_of(q, tuple(a.shape))[0] for q, a in (("logits", logits), ("features", features)))
    loss = (logits * torch.from_numpy(one)).sum() + (features * torch.from_numpy(two)).sum()
    (gx,) = torch.autograd.grad(loss, [x])
    quantities = dict(logits=logits, features=features, gradient=gx)
    arrays = {key: value.detach().numpy() for key, value in quantities.items()}
    return fingerprints.reduced({**arrays, **fingerprints.joined(network.statistics())})


if __name__ == "__main__":
    table = {}
    for case, (name, variant) in fingerprints.CASES.items():
        for mode, training in fingerprints.MODES.items():
            table[f"{case} ({mode})"] = theirs(name, variant, training)
            off = fingerprints.differences(fingerprints.ours(name, variant, training), table[f"{case} ({mode})"])
            print(f"{max(off.values()):.1e}  {case} ({mode})", flush=True)
            fingerprints.same(fingerprints.ours(name, variant, training), table[f"{case} ({mode})"])
    lines = [f"{json.dumps(key)}: {json.dumps(numbers)}" for key, numbers in table.items()]
    fingerprints.FROZEN.write_text("{\n" + ",\n".join(lines) + "\n}\n")
