"""Name maps: which tensor of a published file becomes which weight of our networks, one file per source."""

from . import caffe, cifar, keras_applications, keras_vggface, torchvision
from .entry import Map, Pair

MAPS: tuple[Map, ...] = (
    *keras_applications.MAPS, *keras_vggface.MAPS, *torchvision.MAPS, *caffe.MAPS, *cifar.MAPS,
)  # fmt: skip

__all__ = ["MAPS", "Map", "Pair"]
