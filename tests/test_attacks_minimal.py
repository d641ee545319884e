"""Attacks that search: DeepFool, Carlini-Wagner and Square, where the best perturbation is known."""

import numpy as np
from attack_cases import Dense, double, run, size_of

from minisatm import Tensor, attacks, grad, ops


def test_l0_leaves_an_image_that_nothing_fools(dense):
    """A network that always answers class 0, and one image of another class: asked about no more than need be."""
    asked = []

    def constant(x):
        asked.append(len(x))
        return np.tile(np.array([1.0, 0.0]), (len(x), 1)), lambda g: np.zeros_like(x)

    x = np.full((3, 2, 2, 1), 0.5)
    found = attacks.carlini_wagner_l0(constant, x, np.array([0, 1, 0]), steps=5, search_steps=2, rounds=20)
    assert np.array_equal(found, x)
    assert len(asked) <= 2 * 5 + 1  # one round


def test_the_margin_masks_the_true_class_whatever_the_logits_are():
    logits = np.array([[3.0, 1.0, 2.0], [3.0, 1.0, 2.0]]) - 100
    np.testing.assert_allclose(attacks.true_margin(logits, np.array([0, 1])), [1, -2])


def test_deepfool_fools_and_stays_near(dense, golden):
    x, y = golden["x"], golden["y"]
    moved = attacks.deepfool(dense, x, y)
    assert (dense(Tensor(moved))[0].data.argmax(axis=1) != y).all()
    fgsm = attacks.fgsm(dense, x, y, epsilon=0.3)
    assert np.linalg.norm(moved - x) < np.linalg.norm(fgsm - x)
    assert np.array_equal(attacks.deepfool(dense, moved, y), moved)  # misclassified already: left as it is


def test_carlini_and_wagner_find_smaller_perturbations(dense, golden):
    """Each in its own norm: shorter than DeepFool in L2, than the smallest FGSM in L-infinity; few pixels in L0."""
    x, y = golden["x"], golden["y"]

    def fooled(moved):
        return dense(Tensor(moved))[0].data.argmax(axis=1) != y

    deep = attacks.deepfool(dense, x, y)
    for shift in (0, -100):  # a mask of 0 in place of -inf would fail where all logits are far below zero
        shifted = Dense({k: golden[k] + (np.float32(shift) if k == "b2" else 0) for k in ("W1", "b1", "W2", "b2")})
        l2 = attacks.carlini_wagner_l2(shifted, x, y, steps=60, search_steps=6)
        assert fooled(l2).all() and np.linalg.norm(l2 - x) <= 1.01 * np.linalg.norm(deep - x)
    linf = attacks.carlini_wagner_linf(dense, x, y)
    assert fooled(linf).all()
    assert abs(linf - x).reshape(16, -1).max(axis=1).mean() < abs(deep - x).reshape(16, -1).max(axis=1).mean()
    l0 = attacks.carlini_wagner_l0(dense, x, y, steps=40, rounds=6)
    changed = (abs(l0 - x).max(axis=3) > 1e-4).reshape(16, -1).sum(axis=1)
    assert fooled(l0).all() and changed.mean() < 2.5  # of 3 places


class Linear:
    """Two classes, Z_0 - Z_1 = <w, x> + b, on 6x6 images that are all of class 0: the nearest examples are known."""

    def __init__(self, margin=1.0, count=8):
        rng = np.random.default_rng(2)
        self.w = 1.5 * rng.standard_normal((6, 6, 1))
        self.x, self.y = rng.uniform(0.4, 0.6, (count, 6, 6, 1)), np.zeros(count, int)
        self.b = margin - (self.x * self.w).sum(axis=(1, 2, 3)).min()
        self.f = (self.x * self.w).sum(axis=(1, 2, 3)) + self.b
        self.asked = 0

    def __call__(self, x):
        self.asked += 1
        f = (x * self.w).sum(axis=(1, 2, 3)) + self.b
        return np.stack([f, np.zeros_like(f)], axis=1), lambda g: g[:, :1, None, None] * self.w

    def fewest(self):
        """How many pixels must change: those that can take most off the difference first."""
        most = np.where(self.w > 0, self.w * self.x, -self.w * (1 - self.x)).reshape(len(self.x), -1)
        taken = np.cumsum(np.sort(most, axis=1)[:, ::-1], axis=1)
        return (taken < self.f[:, None]).sum(axis=1) + 1


def test_the_nearest_examples_of_a_linear_network():
    """|f| / ||w||_2 in L2 and |f| / ||w||_1 in L-infinity, where tau shrinks by a tenth at a time."""
    linear = Linear()
    l2, linf = linear.f / np.linalg.norm(linear.w), linear.f / np.abs(linear.w).sum()
    for name, shortest, slack, options in (
        ("deepfool", l2, 1.025, {}),
        ("carlini_wagner_l2", l2, 1.005, {"learning_rate": 0.01}),
        ("carlini_wagner_linf", linf, 1.2, {}),
    ):
        linear.asked = 0
        moved = run(name, linear, linear.x, linear.y, **options)
        assert (attacks.true_margin(linear(moved)[0], linear.y) < 0).all()
        found = size_of(moved - linear.x, "linf" if name.endswith("linf") else "l2")
        assert (found >= shortest).all() and (found <= slack * shortest).all(), (name, found / shortest)
        assert linear.asked < 2100


def test_the_fewest_pixels_of_a_linear_network():
    linear = Linear(margin=6)
    moved = attacks.carlini_wagner_l0(linear, linear.x, linear.y)
    assert (attacks.true_margin(linear(moved)[0], linear.y) < 0).all()
    changed = (moved != linear.x).reshape(8, -1).sum(axis=1)
    assert linear.fewest().min() > 3 and (changed >= linear.fewest()).all()
    assert (changed <= linear.fewest() + 1).all() and changed.mean() < linear.fewest().mean() + 0.5


def test_carlini_wagner_step_by_step(dense, golden):
    """One search step written out, with the tape for the gradient to u: its nearest example is ours."""
    x, y, network, c = golden["x"].astype(np.float64), golden["y"], double(dense), 2.0
    u, m, v = np.arctanh((2 * x - 1) * 0.999999), 0.0, 0.0
    best, shortest = x.copy(), np.full(16, np.inf)
    for t in range(1, 31):
        line = Tensor(u, requires_grad=True)
        image = (ops.tanh(line) + 1) * 0.5
        logits = network(image)[0]
        own = np.eye(4)[y]
        other = np.eye(4)[np.where(own > 0, -np.inf, logits.data).argmax(axis=1)]
        margin = (logits.data * (own - other)).sum(axis=1)
        distance = ((image.data - x) ** 2).sum(axis=(1, 2, 3))
        for i in np.flatnonzero((margin < 0) & (distance < shortest)):
            best[i], shortest[i] = image.data[i], distance[i]
        away = image - Tensor(x)
        loss = ops.sum(away * away) + ops.sum(logits * Tensor(c * (own - other) * (margin > 0)[:, None]))
        (g,) = grad(loss, [line])
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        u = u - 0.05 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
    options = dict(search_steps=1, steps=30, c=c, abort_early=False)
    np.testing.assert_allclose(attacks.carlini_wagner_l2(network, x, y, **options), best, rtol=0, atol=1e-9)
    assert (shortest < np.inf).sum() > 4


def test_carlini_wagner_keeps_the_pixels_that_a_mask_keeps(dense, golden):
    x = np.where(golden["x"] < 0.3, 0, golden["x"]).astype(np.float32)
    mask = np.random.default_rng(0).integers(0, 2, x.shape)
    moved = attacks.carlini_wagner_l2(dense, x, golden["y"], steps=40, search_steps=5, mask=mask)
    assert np.array_equal(moved[mask == 0], x[mask == 0]) and (moved[mask == 1] != x[mask == 1]).mean() > 0.5


def test_a_search_goes_down(dense, golden):
    """Square keeps what lowers the margin, and only that; without a gradient it beats noise of the same size."""
    x, y = golden["x"], golden["y"]
    searched = [run("square", dense, x, y, epsilon=0.1, steps=n) for n in (1, 20, 100)]
    one, some, many = (attacks.true_margin(dense(Tensor(m))[0].data, y) for m in searched)
    noise = attacks.true_margin(dense(Tensor(run("random_noise", dense, x, y, epsilon=0.1)))[0].data, y)
    assert (many <= one).all() and many.mean() < some.mean() < one.mean() and many.mean() < noise.mean()


class Falling:
    """Two classes; from question to question an image's loss falls by its own share, whose number is its last pixel."""

    def __init__(self, shares):
        self.shares, self.asked = np.asarray(shares), []
        self.x = np.full((len(shares), 3, 3, 1), 0.5)
        self.x[:, -1, -1, 0] = np.arange(len(shares)) / 10

    def __call__(self, x):
        which = np.rint(x[:, -1, -1, 0] * 10).astype(int)
        f = (1 - self.shares[which]) ** len(self.asked)
        self.asked.append(which.tolist())
        return np.stack([f, np.zeros_like(f)], axis=1), lambda g: np.zeros_like(x)


def test_carlini_wagner_stops_where_the_loss_no_longer_falls():
    """Checked after each tenth of the steps: the first check only notes the loss, the second one stops the image."""
    for steps, search_steps in ((50, 1), (50, 4), (200, 2), (7, 1)):
        flat, patient = Falling([0.0, 0.0]), Falling([0.0, 0.0])
        options = dict(steps=steps, search_steps=search_steps, c=1.0)
        attacks.carlini_wagner_l2(flat, flat.x, np.zeros(2, int), **options)
        assert flat.asked == [[0, 1]] * (2 * max(1, steps // 10) * search_steps)
        attacks.carlini_wagner_l2(patient, patient.x, np.zeros(2, int), abort_early=False, **options)
        assert patient.asked == [[0, 1]] * (steps * search_steps)


def test_carlini_wagner_goes_on_while_the_loss_falls_by_a_share_of_1e_4():
    """An image whose loss falls by 2e-4 goes on; one with 5e-5, or whose loss rises, stops. Each by itself."""
    falling = Falling([2e-4, 5e-5, 0.1, -0.1, 0.0])  # with 10 steps there is a check after each
    attacks.carlini_wagner_l2(falling, falling.x, np.zeros(5, int), steps=10, search_steps=1, c=1.0)
    assert falling.asked == [[0, 1, 2, 3, 4]] * 2 + [[0, 2]] * 8


def test_square_leaves_an_image_that_is_fooled(dense, golden):
    """Its first example that fools is its last one, though later squares would lower the margin further."""
    x, y = golden["x"], golden["y"]
    examples = [run("square", dense, x, y, epsilon=0.1, steps=60)]
    seen = []

    def watching(images):
        logits, vjp = dense.logits_and_vjp(images)
        seen.append((images.copy(), attacks.true_margin(logits, y)))
        return logits, vjp

    assert np.array_equal(run("square", watching, x, y, epsilon=0.1, steps=60), examples[0])
    margins = np.stack([margin for _, margin in seen])  # of the start, then of each candidate
    late = 0
    for image in range(len(x)):
        fooled = np.flatnonzero(margins[:, image] < 0)
        if len(fooled):
            assert np.array_equal(examples[0][image], seen[fooled[0]][0][image])
            late += margins[fooled[0] :, image].min() < margins[fooled[0], image]
    assert late > 3 and (margins[0] >= 0).any()
