"""Every name map: what the converted network computes is what the peer computed, as frozen numbers.

test_peer_fingerprints.py compares the same numbers with Keras, torchvision and PyTorch itself.
"""

import pytest
from convert_fingerprints import CASES, FROZEN, agree, ours

DROPOUT = {"keras.applications-vgg16": 0.0, "keras-vggface-vgg16": 0.0, "torchvision-vgg16": 0.5,
           "torchvision-vgg16-bn": 0.5, "VGG_FACE-vgg16": 0.5, "VGG_ILSVRC_16-vgg16": 0.5}  # fmt: skip


def test_every_map_has_a_fingerprint():
    assert FROZEN.keys() == {name for name in CASES if not name.startswith("my-lab")}


@pytest.mark.parametrize("name", FROZEN)
def test_fingerprint(name, tmp_path):
    found, definition = ours(name, tmp_path)
    agree(found, FROZEN[name])
    assert definition.get("dropout") == DROPOUT.get(name)
