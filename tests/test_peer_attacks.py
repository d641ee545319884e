"""Our attacks beside Foolbox, torchattacks and ART on one convolutional network with shared weights.

Equal examples where they do what was published, the difference asserted where they do not; and across: ART attacks a
minisatm network through as_function(), our attacks a PyTorch model through (logits, vjp).
"""

import os
import warnings

import numpy as np
import pytest

from minisatm import attacks, models
from minisatm.data import mnist

torch = pytest.importorskip("torch", reason="PyTorch is not installed: attacks are not compared with other libraries'")
from peers import torch_lenet  # noqa: E402  (needs torch)

pytestmark = [pytest.mark.peer, pytest.mark.filterwarnings("ignore")]
EPSILON, STEP = 16 / 256, 4 / 256
first, last = torch_lenet.first, torch_lenet.last


def peer(name):
    """A library that need not be there: these tests only compare with it."""
    os.environ.setdefault("TQDM_DISABLE", "1")  # ART draws bars of its own
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(name, reason=f"{name} is not installed: attacks are not compared with its own")


@pytest.fixture(scope="module")
def foolbox():
    return peer("foolbox")


@pytest.fixture(scope="module")
def torchattacks():
    return peer("torchattacks")


@pytest.fixture(scope="module")
def art():
    peer("art.attacks.evasion")
    from peers import art_estimator

    return art_estimator


def network(dtype):
    ours = models.build("lenet", classes=5, width=1 / 5, size=20, channels=3, rng=3)
    ours.ip2.weight.data = 40 * ours.ip2.weight.data  # from logits that differ by little to some that differ by 1
    some = np.random.default_rng(4).random((50, 20, 20, 3), np.float32)
    ours.ip2.bias.data = -attacks.logits_of(ours, some).mean(axis=0)  # or one class would be nearly all answers
    return ours.astype(dtype)


class Twins:
    """One network here and in PyTorch, images that it gets right, with pixels at 0 and 1 among them."""

    def __init__(self, dtype, inside=False):
        self.ours = network(dtype)
        self.theirs = torch_lenet.LeNet(self.ours)
        rng = np.random.default_rng(5)
        x = rng.uniform(0.05, 0.95, (12, 20, 20, 3))
        corners = rng.integers(0, 2, x.shape)
        self.x = (x if inside else np.where(rng.random(x.shape) < 0.1, corners, x)).astype(dtype)
        self.y = attacks.logits_of(self.ours, self.x).argmax(axis=1)
        self.tx, self.ty = first(self.x), torch.from_numpy(self.y)
        self.noise = rng.standard_normal(x.shape).astype(dtype)

    def fooled(self, x):
        return attacks.true_margin(attacks.logits_of(self.ours, x), self.y) < 0


@pytest.fixture(scope="module")
def double():
    return Twins(np.float64)


@pytest.fixture(scope="module")
def single():
    return Twins(np.float32)


def same(ours, theirs, tolerance=1e-12):
    theirs = last(theirs) if isinstance(theirs, torch.Tensor) else theirs
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance)


def length(away):
    return np.sqrt((np.asarray(away, np.float64) ** 2).reshape(len(away), -1).sum(axis=1))


def test_the_twins_answer_alike(double, single):
    for twins, tolerance in ((double, 1e-13), (single, 1e-5)):
        same(attacks.logits_of(twins.ours, twins.x), twins.theirs(twins.tx).numpy(), tolerance)
        assert len(set(twins.y)) > 2
    g = np.abs(attacks.input_gradient(double.ours, double.x, double.y))
    assert np.median(g[g > 0]) > 1e-6 and (g > 0).mean() > 0.5


def of_foolbox(foolbox, twins, attack, epsilon=None, y=None):
    model = foolbox.PyTorchModel(twins.theirs, bounds=(0, 1), device="cpu")
    labels = twins.ty if y is None else torch.from_numpy(y)
    return last(attack(model, twins.tx, labels, epsilons=epsilon)[1])


@pytest.mark.parametrize("epsilon", [2 / 256, 16 / 256, 0.3])
def test_foolbox_linf(foolbox, double, epsilon):
    fa, t = foolbox.attacks, double
    same(attacks.fgsm(t.ours, t.x, t.y, epsilon=epsilon), of_foolbox(foolbox, t, fa.FGSM(), epsilon))
    steps = dict(rel_stepsize=0.25, steps=10, random_start=False)
    theirs = of_foolbox(foolbox, t, fa.LinfBasicIterativeAttack(**steps), epsilon)
    same(attacks.iterative_fgsm(t.ours, t.x, t.y, epsilon=epsilon), theirs)
    still = attacks.pgd(t.ours, t.x, t.y, epsilon=epsilon, noise=np.zeros_like(t.x))
    same(still, of_foolbox(foolbox, t, fa.LinfPGD(**steps), epsilon))


@pytest.mark.parametrize("epsilon", [0.1, 1.0, 5.0])
def test_foolbox_l2(foolbox, double, epsilon):
    fa, t = foolbox.attacks, double
    same(
        attacks.fast_gradient_value(t.ours, t.x, t.y, epsilon=epsilon), of_foolbox(foolbox, t, fa.FGM(), epsilon), 1e-9
    )
    theirs = of_foolbox(foolbox, t, fa.L2PGD(rel_stepsize=0.25, steps=10, random_start=False), epsilon)
    same(attacks.pgd(t.ours, t.x, t.y, epsilon=epsilon, norm="l2", noise=np.zeros_like(t.x)), theirs, 1e-9)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_foolbox_pgd_from_our_start(foolbox, double, norm, monkeypatch):
    t, rng = double, np.random.default_rng(0)
    noise = rng.uniform(-1, 1, t.x.shape) / (1 if norm == "linf" else np.sqrt(t.x[0].size))
    kind = foolbox.attacks.LinfPGD if norm == "linf" else foolbox.attacks.L2PGD
    epsilon = EPSILON if norm == "linf" else 1.0
    monkeypatch.setattr(kind, "get_random_start", lambda self, x, size: x + size * type(x)(first(noise)))
    theirs = of_foolbox(foolbox, t, kind(rel_stepsize=0.25, steps=10), epsilon)
    same(attacks.pgd(t.ours, t.x, t.y, epsilon=epsilon, norm=norm, noise=noise), theirs, 1e-9)


def test_foolbox_deepfool(foolbox, double):
    """The same rule, stabiliser and overshoot of the sum included, for images that the network gets right."""
    theirs = of_foolbox(foolbox, double, foolbox.attacks.L2DeepFoolAttack(steps=50))
    same(attacks.deepfool(double.ours, double.x, double.y), theirs, 1e-8)


def test_foolbox_momentum_takes_signs_before_it_accumulates(foolbox, double):
    """The trap, live: its descent normalises (to signs) first. Dong et al. accumulate gradients over their L1 norm."""
    attack = foolbox.attacks.LinfMomentumIterativeFastGradientMethod(momentum=1.0, rel_stepsize=0.25, steps=10)
    theirs, t = of_foolbox(foolbox, double, attack, EPSILON), double
    ours = attacks.momentum_fgsm(t.ours, t.x, t.y, epsilon=EPSILON)
    moved, momentum = t.x, np.zeros_like(t.x)
    for _ in range(10):
        momentum = momentum + np.sign(attacks.input_gradient(t.ours, moved, t.y))
        moved = attacks.iterative.projected(moved + STEP * np.sign(momentum), t.x, EPSILON)
    same(moved, theirs)
    assert (np.abs(ours - theirs) > 1e-6).mean() > 0.01


CW = dict(steps=60, learning_rate=0.005, search_steps=5, c=0.1)


def test_foolbox_carlini_wagner(foolbox, double):
    """Distances: each to 2 %. (Foolbox gives up batch by batch, ours image by image: here neither does.)"""
    attack = foolbox.attacks.L2CarliniWagnerAttack(
        binary_search_steps=CW["search_steps"], steps=CW["steps"], stepsize=CW["learning_rate"], initial_const=CW["c"],
        abort_early=False,
    )  # fmt: skip
    t = double
    theirs, ours = of_foolbox(foolbox, t, attack), attacks.carlini_wagner_l2(t.ours, t.x, t.y, abort_early=False, **CW)
    assert t.fooled(theirs).all() and t.fooled(ours).all()
    assert np.abs(length(ours - t.x) / length(theirs - t.x) - 1).max() < 0.02
    assert length(ours - t.x).mean() < 1.005 * length(theirs - t.x).mean()


@pytest.mark.slow
def test_carlini_wagner_on_mnist(foolbox, data_dir, tmp_path):
    """Every digit is fooled, at distances no more than 2 % above Foolbox's with the same budget."""
    converting = pytest.importorskip("weights_convert.convert")
    converting.convert(data_dir / "weights/mnist_lenet/lenet_iter_10000.caffemodel", tmp_path / "l.h5", model="lenet")
    ours = models.build("lenet", weights=str(tmp_path / "l.h5"))
    data = mnist.load(data_dir / "data" / "mnist")
    test = np.flatnonzero(data.official_test)[:60]
    x, y = (data.read(test) / 255).astype(np.float32), data.labels[test]
    right = np.flatnonzero(attacks.logits_of(ours, x).argmax(axis=1) == y)[:50]
    x, y = x[right], y[right]
    moved = attacks.carlini_wagner_l2(ours, x, y, search_steps=9, steps=100, learning_rate=0.05, c=1e-3)
    attack = foolbox.attacks.L2CarliniWagnerAttack(binary_search_steps=9, steps=100, stepsize=0.05, initial_const=1e-3)
    model = foolbox.PyTorchModel(torch_lenet.LeNet(ours), bounds=(0, 1), device="cpu")
    theirs = last(attack(model, first(x), torch.from_numpy(y), epsilons=None)[0])
    for found in (moved, theirs):
        assert (attacks.logits_of(ours, found).argmax(axis=1) != y).all()
    assert length(moved - x).mean() <= 1.02 * length(theirs - x).mean()


@pytest.mark.parametrize("epsilon, steps", [(16 / 256, 1), (16 / 256, 10), (0.3, 10)])
def test_torchattacks_linf(torchattacks, double, epsilon, steps):
    t, own, options = double, dict(epsilon=epsilon, steps=steps), dict(eps=epsilon, alpha=epsilon / 4, steps=steps)
    same(attacks.fgsm(t.ours, t.x, t.y, epsilon=epsilon), torchattacks.FGSM(t.theirs, eps=epsilon)(t.tx, t.ty), 1e-7)
    same(attacks.iterative_fgsm(t.ours, t.x, t.y, **own), torchattacks.BIM(t.theirs, **options)(t.tx, t.ty), 1e-7)
    theirs = torchattacks.PGD(t.theirs, random_start=False, **options)(t.tx, t.ty)
    same(attacks.pgd(t.ours, t.x, t.y, noise=np.zeros_like(t.x), **own), theirs, 1e-7)
    theirs = torchattacks.MIFGSM(t.theirs, decay=1.0, **options)(t.tx, t.ty)  # by the mean: another scale, same signs
    same(attacks.momentum_fgsm(t.ours, t.x, t.y, **own), theirs, 1e-7)


def test_torchattacks_pgd_in_l2(torchattacks, double):
    t = double
    theirs = torchattacks.PGDL2(t.theirs, eps=1.0, alpha=0.25, steps=10, random_start=False)(t.tx, t.ty)
    same(attacks.pgd(t.ours, t.x, t.y, epsilon=1.0, norm="l2", noise=np.zeros_like(t.x)), theirs, 1e-6)


def of_rfgsm(torchattacks, twins, alpha, monkeypatch):
    monkeypatch.setattr(torch, "randn_like", lambda images: first(twins.noise))
    return last(torchattacks.RFGSM(twins.theirs, eps=EPSILON, alpha=alpha, steps=1)(twins.tx, twins.ty))


def test_torchattacks_r_fgsm(torchattacks, double, monkeypatch):
    """Equal at alpha = epsilon / 2, where alpha and epsilon - alpha are the same step."""
    t = double
    ours = attacks.r_fgsm(t.ours, t.x, t.y, epsilon=EPSILON, noise=t.noise)
    same(ours, of_rfgsm(torchattacks, t, EPSILON / 2, monkeypatch), 1e-7)


def test_torchattacks_r_fgsm_steps_alpha(torchattacks, double, monkeypatch):
    """The trap, live: at alpha = epsilon / 4 its second step is alpha again, and half of the budget is never used."""
    t = double
    theirs = of_rfgsm(torchattacks, t, EPSILON / 4, monkeypatch)
    ours = attacks.r_fgsm(t.ours, t.x, t.y, epsilon=EPSILON, alpha=EPSILON / 4, noise=t.noise)
    assert abs(np.abs(theirs - t.x).max() - EPSILON / 2) < 1e-6 and abs(np.abs(ours - t.x).max() - EPSILON) < 1e-6


class Shifted(torch.nn.Module):
    """The same classes from logits that are all larger by `shift`."""

    def __init__(self, model, shift):
        super().__init__()
        self.model, self.shift = model, shift

    def forward(self, x):
        return self.model(x) + self.shift


def test_torchattacks_deepfool_has_no_stabiliser(torchattacks):
    """The trap, live: with large logits its steps vanish in float32 before the boundary. The rest of the rule differs,
    too: it overshoots each step, not the sum."""
    t = Twins(np.float32)
    model = Shifted(t.theirs, 1e5)
    theirs = last(torchattacks.DeepFool(model, steps=50)(t.tx, t.ty))
    ours = attacks.deepfool(torch_lenet.as_function(model), t.x, t.y)

    def share(x):
        return float((model(first(x)).argmax(dim=1) != t.ty).double().mean())

    assert share(ours) == 1 and share(theirs) < 1
    assert length(ours - t.x).mean() < 1.3 * length(attacks.deepfool(t.ours, t.x, t.y) - t.x).mean()


def test_torchattacks_carlini_wagner_masks_with_0(torchattacks):
    """The trap, live: logits shifted by -100 are the same network, on which it finds nothing at all."""
    t = Twins(np.float32, inside=True)  # its arctanh has no answer for a pixel of 0 or 1
    for shift, found in ((0.0, 1.0), (-100.0, 0.0)):
        model = Shifted(t.theirs, shift)
        theirs = last(torchattacks.CW(model, c=10, steps=60, lr=0.05)(t.tx, t.ty))
        assert t.fooled(theirs).mean() == found
        ours = attacks.carlini_wagner_l2(torch_lenet.as_function(model), t.x, t.y, steps=60, search_steps=4, c=1.0)
        assert t.fooled(ours).all()


def test_art_drives_a_minisatm_network(art, single):
    """The same network on both sides: what differs would be the attack alone."""
    from art.attacks import evasion

    t, estimator = single, art.Classifier(single.ours)
    hot = np.eye(5, dtype=np.float32)[t.y]
    same(estimator.predict(t.x), attacks.logits_of(t.ours, t.x), 0)
    same(estimator.loss_gradient(t.x, hot), attacks.input_gradient(t.ours, t.x, t.y), 1e-6)
    g = estimator.class_gradient(t.x)
    same(g[:, 2], estimator.class_gradient(t.x, label=2)[:, 0], 1e-6)
    clear = np.abs(attacks.input_gradient(t.ours, t.x, t.y)) > 1e-6
    fgm = evasion.FastGradientMethod(estimator, eps=EPSILON).generate(t.x, hot)
    same(attacks.fgsm(t.ours, t.x, t.y, epsilon=EPSILON)[clear], fgm[clear], 1e-6)
    in_l2 = evasion.FastGradientMethod(estimator, norm=2, eps=1.0).generate(t.x, hot)
    same(attacks.fast_gradient_value(t.ours, t.x, t.y, epsilon=1.0), in_l2, 1e-6)


def test_art_iterative(art):
    """In float32 a sign near zero can go either way, and other pixels follow: a few in a thousand."""
    from art.attacks import evasion

    t = Twins(np.float32)
    estimator, hot = art.Classifier(t.ours), np.eye(5, dtype=np.float32)[t.y]
    options = dict(eps=EPSILON, eps_step=STEP, max_iter=10, verbose=False)
    zeros = np.zeros_like(t.x)
    pairs = {
        "BIM": (evasion.BasicIterativeMethod(estimator, **options), attacks.iterative_fgsm(t.ours, t.x, t.y)),
        "PGD": (
            evasion.ProjectedGradientDescentNumpy(estimator, **options), attacks.pgd(t.ours, t.x, t.y, noise=zeros),
        ),
        "momentum": (
            evasion.MomentumIterativeMethod(estimator, decay=1.0, **options), attacks.momentum_fgsm(t.ours, t.x, t.y),
        ),
    }  # fmt: skip
    for name, (theirs, ours) in pairs.items():
        away = np.abs(ours - theirs.generate(t.x, hot))
        assert (away > 1e-5).mean() < 5e-3, name
        assert away.max() <= 2 * EPSILON + 1e-6


def test_art_pgd_in_l2_clips_before_it_projects(art):
    """Ours projects on the ball and then clips; they are the same where no pixel meets 0 or 1."""
    from art.attacks import evasion

    for inside in (True, False):
        t = Twins(np.float32, inside=inside)
        options = dict(norm=2, eps=0.2, eps_step=0.05, max_iter=10, verbose=False)
        method = evasion.ProjectedGradientDescentNumpy(art.Classifier(t.ours), **options)
        theirs = method.generate(t.x, np.eye(5, dtype=np.float32)[t.y])
        ours = attacks.pgd(t.ours, t.x, t.y, epsilon=0.2, norm="l2", noise=np.zeros_like(t.x))
        assert max(length(ours - t.x).max(), length(theirs - t.x).max()) <= 0.2 + 1e-6
        assert (np.abs(ours - theirs).max() < 1e-5) == inside


def test_art_minimal(art, single):
    """Like distances. Their DeepFool has no stabiliser and overshoots at the end; their C&W searches lines."""
    from art.attacks import evasion

    t, estimator = single, art.Classifier(single.ours)
    hot = np.eye(5, dtype=np.float32)[t.y]
    theirs = evasion.DeepFool(estimator, epsilon=0.02, nb_grads=5, verbose=False).generate(t.x, hot)
    ours = attacks.deepfool(t.ours, t.x, t.y)
    assert t.fooled(ours).all() and t.fooled(theirs).all()
    assert abs(length(ours - t.x).mean() / length(theirs - t.x).mean() - 1) < 0.05
    few = slice(0, 4)
    method = evasion.CarliniL2Method(estimator, max_iter=20, binary_search_steps=5, initial_const=0.1, verbose=False)
    theirs = method.generate(t.x[few], hot[few])
    ours = attacks.carlini_wagner_l2(t.ours, t.x[few], t.y[few], **CW)
    assert length(ours - t.x[few]).mean() < 1.02 * length(theirs - t.x[few]).mean()
    method = evasion.CarliniLInfMethod(estimator, max_iter=20, initial_const=1.0, largest_const=4.0, verbose=False)
    theirs = method.generate(t.x[few], hot[few])
    ours = attacks.carlini_wagner_linf(t.ours, t.x[few], t.y[few])
    assert (attacks.true_margin(attacks.logits_of(t.ours, ours), t.y[few]) < 0).all()
    largest = [np.abs(moved - t.x[few]).reshape(4, -1).max(axis=1).mean() for moved in (ours, theirs)]
    assert largest[0] < 1.02 * largest[1]


def test_art_without_gradients(art, single):
    """Black-box attacks of theirs need answers alone; a square search of either kind fools about as many."""
    from art.attacks import evasion
    from art.estimators.classification import BlackBoxClassifier

    t, answer = single, single.ours.as_function()
    black_box = BlackBoxClassifier(lambda x: answer(x)[0], (20, 20, 3), 5, clip_values=(0.0, 1.0))
    few = slice(0, 3)
    np.random.seed(0)
    hop = evasion.HopSkipJump(black_box, max_iter=2, max_eval=100, init_eval=10, verbose=False).generate(t.x[few])
    assert (answer(hop)[0].argmax(axis=1) != t.y[few]).all() and hop.min() >= 0 and hop.max() <= 1
    search = evasion.SquareAttack(art.Classifier(t.ours), eps=0.01, max_iter=150, nb_restarts=1, verbose=False)
    theirs = search.generate(t.x, np.eye(5)[t.y])
    ours = attacks.square(t.ours, t.x, t.y, epsilon=0.01, steps=150, rng=np.random.default_rng(0))
    assert abs(t.fooled(ours).mean() - t.fooled(theirs).mean()) <= 0.25


def test_foolbox_decides_on_a_minisatm_network(foolbox, single):
    """A decision-based attack through Foolbox's own NumPy model: answers alone."""
    t, answer = single, single.ours.as_function()
    model = foolbox.models.NumPyModel(lambda x: answer(np.asarray(x, np.float32))[0], bounds=(0, 1))
    attack = foolbox.attacks.LinearSearchBlendedUniformNoiseAttack(steps=50)
    _, (moved,), fooled = attack(model, t.x, t.y, epsilons=[None])
    assert fooled.any() and np.array_equal(fooled[0], t.fooled(np.asarray(moved, np.float32)))


SHORT = {"deepfool": {"steps": 10}, "square": {"steps": 20}, "carlini_wagner_l2": {"steps": 10, "search_steps": 3}}
SHORT |= {"carlini_wagner_linf": {"steps": 10, "c": 1.0}, "carlini_wagner_l0": {"steps": 10, "rounds": 2}}


@pytest.mark.parametrize("name", sorted(attacks.ATTACKS))
def test_a_pytorch_model_as_target(double, name):
    """(logits, vjp) is all that an attack asks for: equal to attacking our twin."""
    t, attack = double, attacks.ATTACKS[name]
    both = [
        attack(
            target,
            t.x,
            t.y,
            **SHORT.get(name, {}),
            **({"rng": np.random.default_rng(1)} if attack.takes("rng") else {}),
        )
        for target in (t.ours, torch_lenet.as_function(t.theirs))
    ]
    same(*both, 1e-8)
