"""What holds for every batch and every part: each image's own mirror and shift, epochs that differ, labels that fit."""

import numpy as np
import pytest
from PIL import Image

from minisatm import data
from minisatm.data import pixels

SIDE, COUNT = 36, 64
REACH = SIDE // 12


def told(index):
    """An image from which everything can be read: red tells the column, green the row, blue the number."""
    rows, columns = np.indices((SIDE, SIDE))
    return np.stack([columns * 7, rows * 7, np.full((SIDE, SIDE), index)], -1).astype(np.uint8)


def batches(*, mirror=True, read=told, size=SIDE, batch=16, indices=range(COUNT), **more):
    labels = np.arange(COUNT, dtype=np.int64) % 3
    own = data.Dataset("own", ("a", "b", "c"), labels, read, 3, mirror=mirror)
    return data.Batches(own, np.array(indices), **{"batch": batch, "size": size, "augment": True, **more})


def read_back(x):
    """(number, mirrored, shift of the rows, shift of the columns) of each image, from its middle."""
    found, middle = [], SIDE // 2
    for image in np.rint(x * 255).astype(int):
        red, green = image[middle, :, 0] // 7, image[:, middle, 1] // 7
        mirrored = red[middle + 1] < red[middle]
        moved = red[middle] - (SIDE - 1 - middle if mirrored else middle)
        found.append((int(image[0, 0, 2]), bool(mirrored), int(green[middle] - middle), int(moved)))
    return found


def epoch(cut, number):
    """{image: (mirrored, rows, columns)} of a whole epoch."""
    steps = cut.steps_per_epoch
    seen = [s for i in range(number * steps, (number + 1) * steps) for s in read_back(cut.at(i)[0])]
    assert len(seen) == len({s[0] for s in seen}) == steps * cut.batch
    return {s[0]: s[1:] for s in seen}


# --- augmentation


def test_each_epoch_augments_each_image_anew():
    cut = batches()
    first, second, third = (epoch(cut, k) for k in range(3))
    for one, other in ((first, second), (second, third), (first, third)):
        same = sum(one[i] == other[i] for i in range(COUNT))
        assert same < COUNT / 8  # of 2 * 49 choices each, about one in a hundred
        assert 16 < sum(one[i][0] != other[i][0] for i in range(COUNT)) < 48  # the mirror alone, too
    assert epoch(batches(), 1) == second and epoch(batches(seed=1), 1) != second


def test_no_two_batches_are_augmented_alike():
    """Neither two of one epoch, nor those at the same place of two epochs: each has draws of its own."""
    for batch in (8, 16, COUNT):
        cut = batches(batch=batch)
        drawn = [tuple(s[1:] for s in read_back(cut.at(i)[0])) for i in range(5 * COUNT // batch)]
        assert len(set(drawn)) == len(drawn)


def test_another_seed_augments_otherwise():
    drawn = [tuple(s[1:] for s in read_back(batches(seed=seed).at(0)[0])) for seed in range(6)]
    assert len(set(drawn)) == 6


def test_an_epoch_of_one_batch_augments_anew():
    """With one batch an epoch, the number of the epoch is that of the batch."""
    cut = batches(batch=COUNT)
    assert len({tuple(sorted(epoch(cut, k).items())) for k in range(4)}) == 4


def test_each_image_of_a_batch_is_mirrored_or_not_by_itself():
    cut = batches()
    counts = [sum(s[1] for s in read_back(cut.at(i)[0])) for i in range(40)]
    assert all(0 < count < 16 for count in counts)
    assert len(set(counts)) >= 5 and abs(np.mean(counts) - 8) < 5 * 2 / np.sqrt(40)


def test_each_image_is_shifted_by_itself_in_both_directions_alike():
    cut = batches()
    seen = [s for i in range(40) for s in read_back(cut.at(i)[0])]
    for axis in (2, 3):
        counts = np.bincount([s[axis] + REACH for s in seen], minlength=2 * REACH + 1)
        assert len(counts) == 2 * REACH + 1  # never farther than a twelfth of the side
        assert counts.min() > 0.6 * counts.mean() and counts.max() < 1.4 * counts.mean()
    rows, columns, mirrored = (np.array([s[k] for s in seen], float) for k in (2, 3, 1))
    for one, other in ((rows, columns), (rows, mirrored), (columns, mirrored)):
        assert abs(np.corrcoef(one, other)[0, 1]) < 5 / np.sqrt(len(seen))
    for i in range(5):
        assert len({s[2:] for s in read_back(cut.at(i)[0])}) > 6


@pytest.mark.parametrize("mirror", [True, False])
def test_an_augmented_image_is_a_window_of_the_reflected_image(mirror):
    """Every pixel: numpy's own reflection, a window of it, and the columns backwards where it is mirrored."""
    noise = np.random.default_rng(5).integers(0, 256, (COUNT, SIDE, SIDE, 3), np.uint8)
    noise[..., 2] = np.arange(COUNT)[:, None, None]
    cut = batches(read=lambda i: noise[i], mirror=mirror)
    used, whole = set(), ((REACH, REACH), (REACH, REACH), (0, 0))
    for x, y in (cut.at(i) for i in range(4)):
        for image, label in zip(np.rint(x * 255).astype(np.uint8), y):
            padded = np.pad(noise[image[0, 0, 2]], whole, mode="reflect")
            fits = [
                flip
                for flip in (False, True)
                for top in range(2 * REACH + 1)
                for left in range(2 * REACH + 1)
                for window in [padded[top : top + SIDE, left : left + SIDE]]
                if np.array_equal(window[:, ::-1] if flip else window, image)
            ]
            assert len(fits) == 1 and label == image[0, 0, 2] % 3
            used.add(fits[0])
    assert used == ({False, True} if mirror else {False})


@pytest.mark.parametrize("size, reach", [(11, 0), (12, 1), (35, 2)])
def test_the_shift_is_a_twelfth_of_the_side_rounded_down(size, reach):
    image = np.indices((size, size)).sum(0)[..., None].repeat(3, -1).astype(np.uint8) * 3
    x = np.rint(batches(read=lambda i: image, mirror=False, size=size, batch=COUNT).at(0)[0] * 255)
    middle = size // 2
    assert {int(v) // 3 - 2 * middle for v in x[:, middle, middle, 0]} == set(range(-2 * reach, 2 * reach + 1))


def test_without_augment_nothing_moves_and_in_order_never_moves():
    for cut in (batches(augment=False), batches()):
        parts = [x for x, _ in cut.in_order()]
        assert read_back(np.concatenate(parts)) == [(i, False, 0, 0) for i in range(COUNT)]
    assert {s[1:] for s in read_back(batches(augment=False).at(3)[0])} == {(False, 0, 0)}


# --- order and labels


def test_labels_stay_with_their_images():
    cut = batches(indices=range(5, 60))
    for pairs in ([cut.at(i) for i in range(9)], list(cut.in_order()), [(x, y) for _, x, y in cut.stream(2, 7)]):
        for x, y in pairs:
            assert [s[0] % 3 for s in read_back(x)] == y.tolist()


def test_every_epoch_has_an_order_of_its_own_and_leaves_others_over():
    cut = batches(indices=range(50))  # three batches of 16: two images are left over
    orders = [[s[0] for i in range(3 * k, 3 * k + 3) for s in read_back(cut.at(i)[0])] for k in range(8)]
    assert all(len(set(order)) == 48 for order in orders) and len({tuple(order) for order in orders}) == 8
    left = [tuple(sorted(set(range(50)) - set(order))) for order in orders]
    assert len(set(left)) > 4 and set().union(*orders) == set(range(50))
    assert all(order != sorted(order) for order in orders)


def test_only_the_given_images_are_used():
    chosen = [3, 8, 21, 22, 40, 41, 63]
    cut = batches(indices=chosen, batch=3)
    assert {s[0] for i in range(12) for s in read_back(cut.at(i)[0])} == set(chosen)
    assert [s[0] for x, _ in cut.in_order() for s in read_back(x)] == chosen
    assert {s[0] for x, _ in cut.in_order(4) for s in read_back(x)} < set(chosen)


def test_pixels_are_255ths():
    for cut in (batches(augment=False), batches()):
        x, _ = cut.at(0)
        assert x.dtype == np.float32 and x.max() == np.float32(245 / 255)
        np.testing.assert_array_equal(x, np.rint(x * 255).astype(np.float32) / np.float32(255))


# --- the size


@pytest.mark.parametrize("size", range(29, 33))
def test_a_digit_is_padded_on_all_sides_and_the_odd_row_is_at_the_end(size):
    digit = np.random.default_rng(0).integers(1, 256, (28, 28, 1), np.uint8)
    out, before = pixels.fit(digit, size), (size - 28) // 2
    assert out.shape == (size, size, 1) and out.dtype == np.uint8
    np.testing.assert_array_equal(out[before : before + 28, before : before + 28], digit)
    assert np.count_nonzero(out) == 28 * 28


@pytest.mark.parametrize("shape", [(28, 28, 3), (27, 28, 1), (26, 26, 1), (40, 40, 1)])
def test_all_else_is_stretched_to_the_whole_square(shape):
    """No border: colour, an image that is not square, one too small, one too large."""
    out = pixels.fit(np.full(shape, 200, np.uint8), 32)
    assert out.shape == (32, 32, shape[2]) and out.min() == out.max() == 200
    rows = np.arange(shape[0])[:, None, None] * np.ones(shape, int) * 5
    assert (np.diff(pixels.fit(rows.astype(np.uint8), 32)[:, :, 0].astype(int), axis=0) >= 0).all()
    columns = pixels.fit(rows.astype(np.uint8).swapaxes(0, 1), 32)[:, :, 0].astype(int)
    assert (np.diff(columns, axis=1) >= 0).all()


def test_resizing_averages_what_it_leaves_out_and_blends_what_it_adds():
    checks = (np.indices((64, 64)).sum(0)[..., None] % 2 * 255).astype(np.uint8)
    for image in (checks, checks.repeat(3, axis=2)):
        assert np.abs(pixels.fit(image, 16)[2:-2, 2:-2].astype(int) - 127).max() < 12
    halves = np.repeat(np.array([0, 255], np.uint8), 8)[None, :, None].repeat(16, axis=0)
    between = pixels.fit(halves, 48)[24, :, 0].astype(int)
    assert between[0] == 0 and between[-1] == 255 and (np.diff(between) >= 0).all()
    assert ((between > 20) & (between < 235)).sum() >= 2


# --- parts


def spread(n=300, **more):
    labels = np.random.default_rng(3).integers(0, 3, n)
    return data.Dataset("own", ("a", "b", "c"), labels, told, 3, **more)


KINDS = {
    "classes": {},
    "subjects": {"subjects": np.random.default_rng(1).integers(0, 60, 300)},
    "folds": {"folds": np.arange(300) // 5 % 5, "subjects": np.arange(300) // 5},
    "test": {"official_test": np.arange(300) >= 240},
}


@pytest.mark.parametrize("kind", KINDS)
def test_parts_hold_each_image_once(kind):
    own = spread(**KINDS[kind])
    for seed in range(5):
        for fold in range(5) if kind == "folds" else [0]:
            parts = own.split(seed=seed, fold=fold)
            assert sorted(np.concatenate(parts).tolist()) == list(range(300))
            assert all((np.diff(part) > 0).all() for part in parts)
            again = spread(**KINDS[kind]).split(seed=seed, fold=fold)
            assert all(np.array_equal(one, other) for one, other in zip(parts, again))
            if own.subjects is not None:
                people = [set(own.subjects[part].tolist()) for part in parts]
                assert sum(map(len, people)) == len(set().union(*people))
            if kind == "folds":
                assert set(parts.test.tolist()) == set(np.flatnonzero(own.folds == fold).tolist())
            if kind == "test":
                assert parts.test.tolist() == list(range(240, 300))


@pytest.mark.parametrize("kind, sizes", [("classes", (210, 30, 60)), ("subjects", (210, 30, 60)),
                                         ("folds", (216, 24, 60)), ("test", (216, 24, 60))])  # fmt: skip
def test_the_parts_have_their_shares(kind, sizes):
    """70, 10 and 20 of a hundred; where the test part is given, a tenth of the others is for validation."""
    own = spread(**KINDS[kind])
    most = 8 if own.subjects is not None else 3  # a subject, or the rounding of three classes
    for seed in range(5):
        assert np.abs(np.subtract([len(part) for part in own.split(seed=seed)], sizes)).max() <= most
    assert len(own.split(validation=0).validation) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_each_seed_draws_other_parts(kind):
    drawn = {tuple(spread(**KINDS[kind]).split(seed=seed).validation.tolist()) for seed in range(6)}
    assert len(drawn) == 6


# --- folders


def draw(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((6, 8, 3), value, np.uint8)).save(path)


@pytest.mark.parametrize("inside", ["", "anna/", "anna/2019/", "deep/er/still/"])
def test_images_in_folders_inside_a_class_belong_to_the_class(tmp_path, inside):
    for k, name in enumerate(("new", "old", "young")):
        for i in range(4):
            draw(tmp_path / name / (inside if i % 2 else "") / f"{i}.png", 40 * k + i)
    own = data.load("folder", tmp_path)
    assert own.classes == ("new", "old", "young") and np.bincount(own.labels).tolist() == [4, 4, 4]
    values = [int(own.read(i)[0, 0, 0]) for i in range(12)]
    assert [value // 40 for value in values] == own.labels.tolist()
    assert sorted(value % 40 for value in values) == sorted([0, 1, 2, 3] * 3)
    assert own.read(0).shape == (6, 8, 3) and own.mirror


def test_equal_names_in_two_folders_are_two_images(tmp_path):
    for k, name in enumerate(("old", "young")):
        for i, person in enumerate(("anna", "ben", "cleo")):
            draw(tmp_path / name / person / "1.png", 40 * k + i)
    own = data.load("folder", tmp_path)
    assert sorted(int(own.read(i)[0, 0, 0]) for i in range(6)) == [0, 1, 2, 40, 41, 42]
