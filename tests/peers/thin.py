"""The networks of Keras and torchvision with fewer filters, and Caffe's in PyTorch's functions, in float64.

Their graphs, paddings and constants are those of their libraries; only the numbers of filters are smaller.
"""

import keras
import numpy as np
import torch
from convert_fingerprints import CASES, WIDTH, classes_of, readings, rule, size_of, weights_of_logits
from torch.nn import functional as F

from . import published, torch_models
from .published import torchvision


def width(filters):
    return max(1, round(filters * WIDTH))


def torchvision_net(case):
    m = CASES[case]
    name = m.model + ("_bn" if case.endswith("-bn") else "")
    settings = dict(transform_input=True, init_weights=False) if m.model == "inception_v3" else {}
    net = getattr(torchvision.models, name)(weights=None, **settings)
    if m.model == "inception_v3":
        net.AuxLogits, net.aux_logits = None, False
    elif m.model == "vgg16":  # the images are smaller, too
        side = size_of(m) // 32
        net.avgpool, net.classifier[0].weight.data = torch.nn.Identity(), torch.zeros(4096, 512 * side**2)
    last = list(net.state_dict())[-1].rpartition(".")[0]
    for path, module in net.named_modules():
        for name, value in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
            if name != "num_batches_tracked":
                shape = [n if i > 1 or n == 3 else width(n) for i, n in enumerate(value.shape)]
                shape[0] = classes_of(m) if path == last else shape[0]
                value.data = torch.from_numpy(rule(case, f"{path}.{name}", shape))
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    enum = {"vgg16": "VGG16", "vgg16_bn": "VGG16_BN", "resnet50": "ResNet50", "resnet101": "ResNet101",
            "inception_v3": "Inception_V3"}  # fmt: skip
    transform = getattr(torchvision.models, f"{enum[m.model + ('_bn' if case.endswith('-bn') else '')]}_Weights")
    transform = transform.DEFAULT.transforms()
    net = net.double()

    def run(x, training):
        net.train(training)
        return net(torchvision.transforms.functional.normalize(x.permute(0, 3, 1, 2), transform.mean, transform.std))

    def statistics():
        buffers = net.state_dict()
        return [next(float(v.sum()) for n, v in buffers.items() if n.endswith(word)) for word in
                ("running_mean", "running_var")] if any("running" in n for n in buffers) else []  # fmt: skip

    return run, statistics


def keras_net(case):
    m = CASES[case]
    whole = published.Case(m.source, m.model, "")
    keras.backend.clear_session()  # or it would count its unnamed layers on
    config = published.build_keras(whole, size_of(m)).get_config()
    for layer in config["layers"]:
        layer.pop("build_config", None)  # the shapes of the wide one
        settings = layer["config"]
        if "filters" in settings:
            settings["filters"] = width(settings["filters"])
        if "units" in settings:
            settings["units"] = classes_of(m) if layer is config["layers"][-1] else width(settings["units"])
        if isinstance(settings.get("dtype"), dict):
            settings["dtype"] = "float64"
    with published.float64():
        net = keras.Model.from_config(config)
    values = [rule(case, v.path.replace("__", "/"), v.shape) for v in net.weights]
    net.set_weights(values)
    peer = published.KerasPeer.__new__(published.KerasPeer)
    peer.case = whole

    def run(x, training):
        with published.float64():
            return net(peer.preprocess(x * 255), training=training)

    def statistics():
        norms = [layer for layer in net.layers if isinstance(layer, keras.layers.BatchNormalization)]
        return [float(np.sum(keras.ops.convert_to_numpy(v))) for norm in norms[:1]
                for v in (norm.moving_mean, norm.moving_variance)]  # fmt: skip

    return run, statistics


def caffe_vgg16(case):
    """VGG_FACE_deploy.prototxt and VGG_ILSVRC_16_layers_deploy.prototxt: BGR in 0..255 less the mean."""
    m = CASES[case]
    mean = {"VGG_FACE": (93.5940, 104.7624, 129.1863), "VGG_ILSVRC_16": (103.939, 116.779, 123.68)}[m.source]

    def layer(name, *shape):
        return [torch.from_numpy(rule(case, f"{name}/{i}", s)).double() for i, s in enumerate((shape, shape[:1]))]

    def run(x, training):
        x, channels = (255 * x.flip(-1) - torch.tensor(mean).double()).permute(0, 3, 1, 2), 3
        for block, (filters, count) in enumerate([(64, 2), (128, 2), (256, 3), (512, 3), (512, 3)], 1):
            for i in range(1, count + 1):
                w, b = layer(f"conv{block}_{i}", width(filters), channels, 3, 3)
                x, channels = F.relu(F.conv2d(x, w, b, padding=1)), width(filters)
            x = F.max_pool2d(x, 2, 2)
        x = x.flatten(1)
        for name in ("fc6", "fc7"):
            x = F.relu(F.linear(x, *layer(name, width(4096), x.shape[1])))
        return F.linear(x, *layer("fc8", m.classes, x.shape[1]))

    return run, list


def caffe_lenet(case):
    """examples/mnist/lenet.prototxt: grey in 0..255 times 0.00390625."""

    def layer(name, *shape):
        return [torch.from_numpy(rule(case, f"{name}/{i}", s)).double() for i, s in enumerate((shape, shape[:1]))]

    def run(x, training):
        x = 0.00390625 * 255 * x.permute(0, 3, 1, 2)
        x = F.max_pool2d(F.conv2d(x, *layer("conv1", width(20), 1, 5, 5)), 2, 2)
        x = F.max_pool2d(F.conv2d(x, *layer("conv2", width(50), width(20), 5, 5)), 2, 2).flatten(1)
        x = F.relu(F.linear(x, *layer("ip1", width(500), x.shape[1])))
        return F.linear(x, *layer("ip2", 5, x.shape[1]))

    return run, list


def cifar_net(case):
    net = torch_models.build("resnet20", classes=5, width=WIDTH, size=32)
    for name, value in net.state_dict().items():
        if "num_batches" not in name and not name.startswith("normalise"):
            value.copy_(torch.from_numpy(rule(case, name, tuple(value.shape))))
    net = net.double()

    def run(x, training):
        net.train(training)
        return net(x.permute(0, 3, 1, 2))[0]

    return run, lambda: [float(net.bn1.running_mean.sum()), float(net.bn1.running_var.sum())]


def peer_readings(case, images):
    m = CASES[case]
    makers = {"keras.applications": keras_net, "keras-vggface": keras_net, "torchvision": torchvision_net,
              "VGG_FACE": caffe_vgg16, "VGG_ILSVRC_16": caffe_vgg16, "caffe": caffe_lenet,
              "pytorch_resnet_cifar10": cifar_net}  # fmt: skip
    run, statistics = makers[m.source](case)
    x = torch.from_numpy(images).requires_grad_()
    logits = run(x, False)
    (gradient,) = torch.autograd.grad((logits * torch.from_numpy(weights_of_logits(tuple(logits.shape)))).sum(), [x])
    if m.model not in ("vgg16", "lenet") or case.endswith("-bn"):
        run(torch.from_numpy(images), True)
    return readings(logits.detach().numpy(), gradient.numpy(), statistics())
