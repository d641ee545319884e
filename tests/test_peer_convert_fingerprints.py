"""The frozen numbers of test_convert_fingerprints.py are those of Keras, torchvision and PyTorch.

To print them anew: python tests/test_peer_fingerprints.py, with those libraries installed.
"""

import json
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

for library in ("torch", "torchvision", "keras"):
    if find_spec(library) is None:
        pytest.skip(f"{library} is not installed: the fingerprints are not compared with it", allow_module_level=True)
from convert_fingerprints import CASES, FROZEN, agree, images  # noqa: E402
from peers.thin import peer_readings  # noqa: E402

pytestmark = [
    pytest.mark.peer,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]


@pytest.mark.parametrize("name", FROZEN)
def test_the_peer_computes_the_fingerprint(name):
    agree(peer_readings(name, images(CASES[name])), FROZEN[name])


if __name__ == "__main__":
    found = {name: peer_readings(name, images(m)) for name, m in CASES.items()}
    text = json.dumps(found).replace("}, ", "},\n").replace("], ", "],\n ")
    (Path(__file__).parent / "golden" / "convert_fingerprints.json").write_text(text + "\n")
    sys.exit(0)
