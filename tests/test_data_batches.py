"""Batches: pure functions of seed and number, bounded memory, threads that stop and whose errors arrive."""

import threading
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from minisatm import data
from minisatm.data import pixels
from minisatm.errors import InputError


def dataset(n=50, side=16, channels=3, read=None, **more):
    images = np.random.default_rng(1).integers(0, 256, (n, side, side, channels), np.uint8)
    labels = np.arange(n, dtype=np.int64) % 2
    return data.Dataset("own", ("a", "b"), labels, read or (lambda index: images[index]), channels, **more)


def batches(own=None, indices=range(50), **more):
    return data.Batches(own or dataset(), np.array(indices), **{"batch": 8, "size": 16, **more})


def test_an_epoch_takes_each_image_once_and_epochs_differ():
    labels = np.arange(48)
    own = data.Dataset("own", tuple(map(str, range(48))), labels, lambda i: np.full((16, 16, 3), i, np.uint8), 3)
    cut = batches(own, indices=labels)
    epochs = [np.concatenate([cut.at(i)[1] for i in range(e * 6, e * 6 + 6)]) for e in (0, 1)]
    assert cut.steps_per_epoch == 6 and len(cut) == 48
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(48)) and (epochs[0] != epochs[1]).any()
    x, y = cut.at(3)
    assert x.dtype == np.float32 and x.shape == (8, 16, 16, 3) and y.dtype == np.int64
    np.testing.assert_array_equal(x[:, 0, 0, 0], y.astype(np.float32) / np.float32(255))


def test_a_batch_depends_on_seed_and_number_only():
    one, other = batches(augment=True, seed=3), batches(augment=True, seed=3, cache_bytes=0)
    for i in (17, 2, 17, 5):
        np.testing.assert_array_equal(one.at(i)[0], other.at(i)[0])
    resumed = {i: (x, y) for i, x, y in batches(augment=True, seed=3).stream(4, 20)}
    assert list(resumed) == list(range(4, 20))
    for i, x, y in one.stream(0, 20):
        if i in resumed:
            np.testing.assert_array_equal(x, resumed[i][0])
            np.testing.assert_array_equal(y, resumed[i][1])
    assert (batches(seed=4).at(0)[0] != batches(seed=3).at(0)[0]).any()


def test_augmentation_mirrors_and_shifts():
    ramp = np.tile(np.arange(24, dtype=np.uint8)[:, None] * 8, (24, 1, 3)).reshape(24, 24, 3)  # columns tell where
    for mirror in (True, False):
        own = dataset(64, read=lambda i: ramp, mirror=mirror)
        x = np.concatenate([batches(own, range(64), size=24, augment=True).at(i)[0] for i in range(8)])
        steps = np.sign(x[:, 12, 13, 0] - x[:, 12, 12, 0])
        assert set(steps) == ({-1.0, 1.0} if mirror else {1.0})
        shifts = np.rint(x[:, 12, 11, 0] * 255 / 8)
        assert len(set(shifts)) >= 5 and x.max() <= 1
        inner = np.abs(np.diff(x[:, 12, 2:-2, 0], axis=1) * 255)
        np.testing.assert_allclose(inner, 8, atol=1e-3)  # neighbours stay neighbours away from the border
    plain = batches(dataset(64, read=lambda i: ramp), range(64), size=24).at(0)[0]
    np.testing.assert_array_equal(plain, np.repeat(ramp[None], 8, 0) / np.float32(255))


def test_in_order_gives_every_image_once():
    cut = batches(augment=True)
    parts = list(cut.in_order())
    assert [len(y) for _, y in parts] == [8] * 6 + [2]
    np.testing.assert_array_equal(np.concatenate([y for _, y in parts]), np.arange(50) % 2)
    expected = np.stack([cut.dataset.read(i) for i in range(50)]) / np.float32(255)
    np.testing.assert_array_equal(np.concatenate([x for x, _ in parts]), expected)


def test_a_limit_draws_from_all_classes_and_stays_the_same():
    own = data.Dataset("own", ("a", "b"), np.repeat([0, 1], 100), lambda i: np.full((8, 8, 1), i, np.uint8), 1)
    cut = batches(own, range(200), size=8)
    first, again = ([*cut.in_order(limit=30)] for _ in range(2))
    y = np.concatenate([y for _, y in first])
    assert len(y) == 30 and 5 < y.sum() < 25
    seen = np.concatenate([x[:, 0, 0, 0] for x, _ in first])
    assert (np.diff(seen) > 0).all()
    np.testing.assert_array_equal(seen, np.concatenate([x[:, 0, 0, 0] for x, _ in again]))
    assert sum(len(y) for _, y in cut.in_order(limit=999)) == 200


def test_fewer_images_than_a_batch_is_an_error():
    cut = batches(indices=range(7))
    assert cut.steps_per_epoch == 0 and sum(len(y) for _, y in cut.in_order()) == 7
    with pytest.raises(InputError, match="7 training images do not fill a batch of 8: use a smaller batch or more im"):
        cut.at(0)
    with pytest.raises(InputError, match="batches of 0 images of 16 pixels: give 1 or more of both"):
        batches(batch=0)


def test_the_cache_is_bounded_and_saves_decoding():
    decoded = []
    image = np.zeros((64, 64, 3), np.uint8)
    own = dataset(200, read=lambda i: decoded.append(i) or image + np.uint8(i))
    one = 16 * 16 * 3
    bounded = batches(own, range(200), cache_bytes=50 * one + 5)
    for _ in range(2):
        for _ in bounded.in_order():
            pass
    assert bounded.cached_bytes == 50 * one and len(bounded._cache) == 50
    assert len(decoded) == 200 + 150
    decoded.clear()
    free = batches(own, range(200))
    for _ in range(3):
        for _ in free.in_order():
            pass
    assert len(decoded) == 200


def test_streaming_does_not_hold_the_images():
    """600 images of 110 kB (66 MB) pass through; the peak stays near the cache's bound and the batches ahead."""
    own = dataset(600, side=8, read=lambda i: np.full((192, 192, 3), i % 256, np.uint8))
    cut = batches(own, range(600), size=192, cache_bytes=2**20)
    tracemalloc.start()
    for _ in cut.stream(0, 75):
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert cut.cached_bytes <= 2**20
    assert peak < 2**20 + 10 * 8 * 192 * 192 * 3 * 5  # ten batches, as bytes and as float32


def test_a_cached_image_keeps_no_larger_one_alive():
    cut = batches(dataset(read=lambda i: np.zeros((500, 500, 3), np.uint8)[:16, :16]))
    cut.at(0)
    assert all(image.base is None for image in cut._cache.values())


def names():
    return [thread for thread in threading.enumerate() if thread.name.startswith("batches")]


def test_leaving_the_stream_stops_its_threads():
    for i, _, _ in batches().stream(0, 10**9):
        assert names()
        if i == 3:
            break
    assert not names()
    with pytest.raises(KeyError):
        for _ in batches().stream(0, 100):
            raise KeyError
    assert not names()


def test_an_error_in_a_thread_arrives_at_its_own_batch():
    def read(index):
        if index == 13:
            raise InputError("13 does not decode")
        return np.zeros((16, 16, 3), np.uint8)

    cut = batches(dataset(read=read), range(48), seed=2)
    bad = next(i for i in range(6) if 13 in cut._shuffled(0)[i * 8 : i * 8 + 8])
    seen = []
    with pytest.raises(InputError, match="13 does not decode"):
        for i, _, _ in cut.stream(0, 6):
            seen.append(i)
    assert seen == list(range(bad)) and not names()


def test_small_grey_images_are_padded_and_others_resized():
    digit = np.full((28, 28, 1), 200, np.uint8)
    padded = pixels.fit(digit, 32)
    assert padded.shape == (32, 32, 1) and padded[2:30, 2:30].min() == 200 and padded.sum() == 200 * 784
    assert pixels.fit(digit, 29).sum() == 200 * 784  # an odd difference
    assert pixels.fit(digit, 28) is digit
    assert pixels.fit(digit, 40).min() == 200 and pixels.fit(digit, 14).shape == (14, 14, 1)
    colour = pixels.fit(np.full((30, 30, 3), 200, np.uint8), 32)
    assert colour.shape == (32, 32, 3) and colour.min() == 200
    checks = np.indices((64, 64)).sum(0)[..., None].astype(np.uint8) % 2 * 255
    assert np.ptp(pixels.fit(checks, 16)[2:-2, 2:-2].astype(int)) < 20  # antialiased: grey, not stripes


def test_large_jpegs_are_decoded_small_with_the_same_picture(tmp_path):
    ramp = np.linspace(0, 255, 800).astype(np.uint8)
    image = np.stack([np.tile(ramp, (800, 1)), np.tile(ramp[:, None], (1, 800)), np.full((800, 800), 90, np.uint8)], -1)
    path = tmp_path / "large.jpg"
    Image.fromarray(image).save(path, quality=95)
    near = pixels.read_image(path, 100)
    assert near.shape == (100, 100, 3) and pixels.read_image(path).shape == (800, 800, 3)
    full = pixels.fit(pixels.read_image(path), 90).astype(int)
    assert np.abs(pixels.fit(pixels.read_image(path, 90), 90) - full).max() <= 6
    np.testing.assert_array_equal(pixels.read_image(path, 900).shape, (800, 800, 3))
