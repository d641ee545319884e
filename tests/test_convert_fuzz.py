"""Thousands of damaged weight files: the readers give arrays or an InputError, soon, in little room; nothing is run."""

import random
import sys
import tempfile
import threading
import time
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from weight_files import KINDS, A, B, small, torch_zip

from minisatm.errors import InputError
from weights_convert.readers import read

SLOWEST = 8.0  # seconds of this process, for a file of a few KB; the usual is a few milliseconds, HDF5's worst 3 s
MOST_MEMORY = 2**23
RUNS = {"pickle.find_class", "os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "socket.connect",
        "os.rename", "os.mkdir", "ctypes.dlopen"}  # fmt: skip

seen: list[str] = []
watching = False


def temporary(path):
    """Whether it is a file without a name of its own, to which a .keras is unpacked."""
    return Path(tempfile.gettempdir()) in (Path(str(path)), Path(str(path)).parent)


def audit(event, arguments):
    """Python tells every audit hook what it is about to run; a hook cannot be taken away, so it has a switch.

    Other threads have nothing to do with reading: while these tests run, one compiles kernels (conftest.py).
    """
    if threading.current_thread() is not threading.main_thread():
        return
    if watching and (event in RUNS or (event == "open" and "w" in str(arguments[1]) and not temporary(arguments[0]))):
        seen.append(f"{event} {arguments}")


sys.addaudithook(audit)


def inner(path, kind):
    """(bytes to damage, how to put them into a file): a zip's sums would catch all damage from outside."""
    whole = small(path, kind).read_bytes()
    if kind == "PyTorch zip":
        with zipfile.ZipFile(path) as archive:
            return archive.read("archive/data.pkl"), lambda data: torch_zip(
                path, data, {"0": A.tobytes(), "1": B.tobytes()}
            )
    if kind in ("Keras 3 archive", "NumPy archive"):
        with zipfile.ZipFile(path) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        changed = "config.json" if kind == "Keras 3 archive" else "a.npy"

        def rebuild(data):
            with zipfile.ZipFile(path, "w") as archive:
                for name, content in members.items():
                    archive.writestr(name, data if name == changed else content)

        return members[changed], rebuild
    return whole, path.write_bytes


def damage(data, rng):
    """The data with some bytes set, flipped, put in, taken out or doubled, or cut."""
    data = bytearray(data)
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        data = data or bytearray(1)
        at = rng.randrange(len(data))
        match rng.randrange(7):
            case 0:
                data[at] = rng.choice([0, 1, 127, 128, 255, rng.randrange(256)])
            case 1:
                data[at] ^= 1 << rng.randrange(8)
            case 2:
                data[at:at] = rng.randbytes(rng.choice([1, 2, 8]))
            case 3:
                del data[at : at + rng.choice([1, 2, 8])]
            case 4:
                data[at : at + 8] = b"\xff" * rng.choice([4, 8])
            case 5:
                data[at:at] = data[at : at + 64]
            case 6:
                del data[at + 1 :]
    return bytes(data)


def attempt(path):
    """'arrays' or 'refused'; anything else fails."""
    began = time.process_time()
    try:
        tensors = read(path).tensors
    except InputError as problem:
        text = str(problem)
        assert text.count(str(path)) == 1 and text.endswith(".") and text.isprintable() and len(text) < 500, text
        return "refused"
    finally:
        assert time.process_time() - began < SLOWEST
    assert tensors and all(type(a) is np.ndarray and a.dtype.kind in "fiub" for a in tensors.values())
    return "arrays"


def fuzz(path, base, write, count, seed):
    global watching
    rng, results = random.Random(seed), []
    write(base)
    assert attempt(path) == "arrays"
    tracemalloc.start()
    watching = True
    try:
        for _ in range(count):
            data = damage(base, rng)
            watching = False
            write(data)
            watching = True
            tracemalloc.reset_peak()
            results.append(attempt(path))
            assert tracemalloc.get_traced_memory()[1] < MOST_MEMORY
    finally:
        watching = False
        tracemalloc.stop()
    assert seen == []
    return results


CASES = [(kind, False) for kind in KINDS] + [(k, True) for k in ("PyTorch zip", "Keras 3 archive", "NumPy archive")]


@pytest.mark.parametrize("kind, within", CASES)
def test_a_damaged_file_is_read_or_refused(tmp_path, kind, within):
    path = tmp_path / "file"
    base, write = inner(path, kind) if within else (small(path, kind).read_bytes(), path.write_bytes)
    results = fuzz(path, base, write, 250 if "Keras" in kind else 500, seed=0)
    assert results.count("refused") > len(results) / 10


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 6))
@pytest.mark.parametrize("kind, within", CASES)
def test_many_damaged_files_are_read_or_refused(tmp_path, kind, within, seed):
    path = tmp_path / "file"
    base, write = inner(path, kind) if within else (small(path, kind).read_bytes(), path.write_bytes)
    fuzz(path, base, write, 2000, seed)


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_cut_anywhere_is_refused(tmp_path, kind):
    """Caffe's format alone has no length and no end: cut between two layers it is whole, and the maps miss a layer."""
    path = tmp_path / "file"
    data = small(path, kind).read_bytes()
    whole = []
    for length in range(0, len(data), 1 if len(data) < 1500 else 97):
        path.write_bytes(data[:length])
        if attempt(path) == "arrays":
            whole.append(length)
    assert len(whole) == (1 if kind == "Caffe" else 0)


def test_the_audit_would_see_what_a_pickle_runs(tmp_path):
    """Python's own reader of pickles runs what is refused here: so the canary can sing."""
    global watching
    import pickle

    canary = tmp_path / "canary"
    song = b"cbuiltins\nopen\n(X" + len(str(canary)).to_bytes(4, "little") + str(canary).encode() + b"X\x01\0\0\0wtR."
    path = torch_zip(tmp_path / "file", b"\x80\x02" + song, {})
    watching = True
    assert attempt(path) == "refused" and seen == [] and not canary.exists()
    pickle.loads(b"\x80\x02" + song).close()
    watching = False
    assert canary.exists() and len(seen) == 2
    seen.clear()
