"""The networks as a PyTorch user would write them (channels first, torchvision's names), and our weights for them."""

import re

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

torch.set_num_threads(1)  # PyTorch's threads and NumPy's wait for each other: ten times slower on two busy cores

VGG_PLAN = (64, 64, "pool", 128, 128, "pool", 256, 256, 256, "pool", 512, 512, 512, "pool", 512, 512, 512, "pool")
BLOCKS = {"resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3), "resnet20": (3, 3, 3)}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def thin(channels, width):
    return max(1, round(channels * width))


class Normalise(nn.Module):
    def __init__(self, mean=MEAN, std=STD, bgr=False):
        super().__init__()
        self.mean, self.std, self.bgr = mean, std, bgr

    def forward(self, x):
        if self.bgr:
            x = x.flip(1)
        mean, std = (torch.tensor(v, dtype=x.dtype).view(1, -1, 1, 1) for v in (self.mean, self.std))
        return (x - mean) / std


class DrawnDropout(nn.Module):
    """Dropout whose uniform draws come from a NumPy generator, in the order of images with channels last: as ours."""

    def __init__(self, rate):
        super().__init__()
        self.rate, self.rng = rate, None

    def forward(self, x):
        if not self.training or self.rate == 0:
            return x
        shape = (x.shape[0], *x.shape[2:], x.shape[1]) if x.ndim == 4 else tuple(x.shape)
        kept = torch.from_numpy(self.rng.random(shape, np.float32) >= self.rate)
        return x * (kept.permute(0, 3, 1, 2) if x.ndim == 4 else kept) / (1 - self.rate)


class VGG16(nn.Module):
    def __init__(self, classes, width=1.0, size=224, channels=3, dropout=0.5, **normalise):
        super().__init__()
        self.normalise = Normalise(**normalise)
        layers = []
        for filters in VGG_PLAN:
            if filters == "pool":
                layers.append(nn.MaxPool2d(2))
            else:
                layers += [nn.Conv2d(channels, thin(filters, width), 3, padding=1), nn.ReLU()]
                channels = thin(filters, width)
        self.features = nn.Sequential(*layers)
        hidden = thin(4096, width)
        self.classifier = nn.Sequential(
            nn.Linear(channels * (size // 32) ** 2, hidden), nn.ReLU(), DrawnDropout(dropout),
            nn.Linear(hidden, hidden), nn.ReLU(), DrawnDropout(dropout),
            nn.Linear(hidden, classes),
        )  # fmt: skip

    def forward(self, x):
        features = self.classifier[:5](torch.flatten(self.features(self.normalise(x)), 1))
        return self.classifier[5:](features), features


class Bottleneck(nn.Module):
    def __init__(self, channels, width, stride, stride_in, bias, eps, momentum):
        super().__init__()
        first, second = (stride, 1) if stride_in == "1x1" else (1, stride)
        norm = {"eps": eps, "momentum": momentum}
        self.conv1 = nn.Conv2d(channels, width, 1, stride=first, bias=bias)
        self.bn1 = nn.BatchNorm2d(width, **norm)
        self.conv2 = nn.Conv2d(width, width, 3, stride=second, padding=1, bias=bias)
        self.bn2 = nn.BatchNorm2d(width, **norm)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=bias)
        self.bn3 = nn.BatchNorm2d(4 * width, **norm)
        self.downsample = nn.Identity()
        if stride != 1 or channels != 4 * width:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels, 4 * width, 1, stride=stride, bias=bias), nn.BatchNorm2d(4 * width, **norm)
            )

    def forward(self, x):
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        return F.relu(self.bn3(self.conv3(out)) + self.downsample(x))


class ResNet(nn.Module):
    """ResNet50 or ResNet101; momentum in PyTorch's sense, the share of the new batch."""

    def __init__(
        self, name, classes, width=1.0, channels=3, stride_in="3x3", conv_bias=False, eps=1e-5, momentum=0.1,
        pool_padding=1, pool_ceil=False, **normalise,
    ):  # fmt: skip
        super().__init__()
        self.normalise = Normalise(**normalise)
        self.conv1 = nn.Conv2d(channels, thin(64, width), 7, stride=2, padding=3, bias=conv_bias)
        self.bn1 = nn.BatchNorm2d(thin(64, width), eps=eps, momentum=momentum)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=pool_padding, ceil_mode=pool_ceil)
        channels = thin(64, width)
        for stage, count in enumerate(BLOCKS[name], 1):
            blocks, planes = [], thin(32 * 2**stage, width)
            for i in range(count):
                stride = 2 if stage > 1 and i == 0 else 1
                blocks.append(Bottleneck(channels, planes, stride, stride_in, conv_bias, eps, momentum))
                channels = 4 * planes
            setattr(self, f"layer{stage}", nn.Sequential(*blocks))
        self.fc = nn.Linear(channels, classes)

    def forward(self, x):
        x = self.maxpool(F.relu(self.bn1(self.conv1(self.normalise(x)))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        features = torch.flatten(F.adaptive_avg_pool2d(x, 1), 1)
        return self.fc(features), features


class BasicBlock(nn.Module):
    """Two 3x3 convolutions; the shortcut takes every second pixel and pads channels with zeros (option A)."""

    def __init__(self, channels, planes, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, planes, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.stride, self.missing = stride, planes - channels

    def forward(self, x):
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.stride != 1 or self.missing:
            below = self.missing // 2
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, below, self.missing - below))
        return F.relu(out + x)


class CifarResNet20(nn.Module):
    def __init__(self, classes=10, width=1.0, channels=3, **normalise):
        super().__init__()
        self.normalise = Normalise(**normalise)
        self.conv1 = nn.Conv2d(channels, thin(16, width), 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(thin(16, width))
        channels = thin(16, width)
        for stage, count in enumerate(BLOCKS["resnet20"], 1):
            blocks, planes = [], thin(8 * 2**stage, width)
            for i in range(count):
                blocks.append(BasicBlock(channels, planes, 2 if stage > 1 and i == 0 else 1))
                channels = planes
            setattr(self, f"layer{stage}", nn.Sequential(*blocks))
        self.linear = nn.Linear(channels, classes)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(self.normalise(x))))
        features = self.layer3(self.layer2(self.layer1(x))).mean(dim=(2, 3))
        return self.linear(features), features


def build(name, *, classes, width, size, **variant):
    """Our models.build, in PyTorch: the same names of networks and settings."""
    if name == "vgg16":
        return VGG16(classes, width, size, **variant)
    if name == "resnet20":
        return CifarResNet20(classes, width, **variant)
    return ResNet(name, classes, width, **variant)


# Names: ours -> PyTorch's.

LEAVES = {"gamma": "weight", "beta": "bias", "mean": "running_mean", "var": "running_var"}
VGG_NAMES = {"fc6": "classifier.0", "fc7": "classifier.3", "fc8": "classifier.6"}
_place, _block, _number = 0, 1, 1
for _filters in VGG_PLAN:
    if _filters == "pool":
        _place, _block, _number = _place + 1, _block + 1, 1
    else:
        VGG_NAMES[f"conv{_block}_{_number}"] = f"features.{_place}"
        _place, _number = _place + 2, _number + 1


def torch_name(network, name):
    """stage2.0.conv1.bn.gamma -> layer2.0.bn1.weight, and so on."""
    module, leaf = name.rsplit(".", 1)
    kind = network.definition["name"]
    if kind == "vgg16":
        module = VGG_NAMES[module]
    elif module == "fc":
        module = "linear" if kind == "resnet20" else "fc"
    else:
        module = re.sub(r"^stage(\d)\.", r"layer\1.", module)
        module = re.sub(r"^stem\.(conv|bn)$", r"\g<1>1", module)
        module = re.sub(r"\.conv(\d)\.(conv|bn)$", r".\2\1", module)
        module = module.replace("project.conv", "downsample.0").replace("project.bn", "downsample.1")
    return f"{module}.{LEAVES.get(leaf, leaf)}"


# Layouts: ours -> PyTorch's and back.


def torch_layout(network, name, array):
    """Convolutions (kh, kw, C, F) -> (F, C, kh, kw); dense (in, out) -> (out, in), fc6 also (h, w, c) -> (c, h, w)."""
    if name == "fc6.weight":
        side = network.definition["size"] // 32
        array = array.reshape(side, side, -1, array.shape[1])
        return array.transpose(3, 2, 0, 1).reshape(array.shape[3], -1)
    return {4: lambda a: a.transpose(3, 2, 0, 1), 2: lambda a: a.T, 1: lambda a: a}[array.ndim](array)


def our_layout(network, name, array):
    """torch_layout backwards."""
    if name == "fc6.weight":
        side = network.definition["size"] // 32
        return array.reshape(len(array), -1, side, side).transpose(2, 3, 1, 0).reshape(-1, len(array))
    return {4: lambda a: a.transpose(2, 3, 1, 0), 2: lambda a: a.T, 1: lambda a: a}[array.ndim](array)


def _names(ours, theirs):
    """{our name: their name}, checked to use every weight and buffer of both sides exactly once."""
    names = {name: torch_name(ours, name) for name in ours.state()}
    counters = {key for key in theirs.state_dict() if key.endswith("num_batches_tracked")}
    assert len(set(names.values())) == len(names), "two of our weights go to one of theirs"
    assert set(names.values()) == set(theirs.state_dict()) - counters, (
        f"left over: {sorted(set(names.values()) ^ (set(theirs.state_dict()) - counters))}"
    )
    return names


def copy_weights(ours, theirs):
    """Give PyTorch's network all weights and buffers of ours."""
    names = _names(ours, theirs)
    carried = {
        names[n]: torch.from_numpy(np.array(torch_layout(ours, n, a), order="C")) for n, a in ours.state().items()
    }
    theirs.load_state_dict({**theirs.state_dict(), **carried})  # strict: names and shapes must fit
    return theirs


def copy_back(ours, theirs):
    """Give our network all weights and buffers of PyTorch's."""
    state = {key: value.numpy() for key, value in theirs.state_dict().items()}
    ours.set_state({name: our_layout(ours, name, state[key]) for name, key in _names(ours, theirs).items()})
    return ours


def gradients_of(ours, theirs):
    """PyTorch's weight gradients {our name: array in our layout}; a weight that got none is an error."""
    weights = dict(theirs.named_parameters())
    names = {name: key for name, key in _names(ours, theirs).items() if key in weights}
    return {name: our_layout(ours, name, weights[key].grad.numpy()) for name, key in names.items()}
