"""What SATM is measured against: whose examples are learnt from, soft labels, the gradient penalty, ADDA."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
from test_satm import Batches, ByHand, N, batch, bits, learner

from minisatm import InputError, Tensor, attacks, backend, grad, ops, optim, parallel, satm
from minisatm.defences import training as defences
from minisatm.domain import Discriminator, DomainClassifier
from minisatm.layers import BatchNorm, Linear, Module, seed_dropout
from minisatm.run import phases
from minisatm.run import settings as config
from minisatm.satm import Learner, Rules
from minisatm.streams import stream

RELATIVES = SimpleNamespace(r_embedding=0.1, temperature=3.0, r_penalty=0.1)

RATE = 0.05


class Smooth(Module):
    """12 - 8 (tanh) - 4 on images (N, 2, 2, 3), in float64: nowhere a kink."""

    def __init__(self, seed=0):
        rng = np.random.default_rng(seed)
        self.fc1, self.fc2 = Linear(12, 8, rng=rng), Linear(8, 4, rng=rng)
        self.astype(np.float64)

    def __call__(self, x):
        features = ops.tanh(self.fc1(x.reshape(len(x), -1)))
        return self.fc2(features), features


def smooth(seed=0, name="smooth"):
    network = Smooth(seed)
    return Learner(name, network, optim.SGD(network.parameters(), RATE))


def points(count=6, seed=0):
    rng = np.random.default_rng(seed)
    return rng.random((count, 2, 2, 3)), rng.integers(0, 4, count)


def weights_of(own):
    return {n: t.data.copy() for n, t in own.network.parameters().items()}


# Standard, ensemble and cascade training


@pytest.mark.parametrize("rules", [Rules(), Rules(loss_norm="half", r_da=0.0, epsilon=0.1, alpha=0.02)], ids=str)
def test_frozen_b_ensemble_and_an_oracle_are_one(rules):
    """SATM with B frozen, ensemble training, and the loop written out with ops and arrays alone: the same bits."""
    one, frozen = learner("a"), learner("b", frozen=True)
    satm.train([one, frozen], rules, Batches(4))
    two = learner("a")
    defences.train_ensemble([two], [[learner("b", frozen=True)]], rules, Batches(4))
    oracle, source = ByHand(learner("a")), ByHand(learner("b"))
    for iteration in range(4):
        x, y = batch(iteration)
        oracle.learn(x, y, source.craft(x, y, rules, iteration), rules, iteration)
    state = {f"a.network.{n}": v.tobytes() for n, v in oracle.network.state().items()}
    state |= {f"a.domain.{n}": v.tobytes() for n, v in oracle.domain.state().items()}
    for own in (one, two):
        found = bits(own)
        assert {n: found[n] for n in state} == state
        velocity = {n: v["velocity"].tobytes() for n, v in own.optimiser.slots.items()}
        assert velocity == {n: oracle.velocity[f"network.{n}"].tobytes() for n in velocity}
    assert bits(frozen) == bits(learner("b", frozen=True))


def test_two_of_k_are_the_dual_loop():
    """satm.train, written for K networks, beside the dual loop of the paper written out: the same bits."""
    pair, rules = [learner("a"), learner("b")], Rules()
    satm.train(pair, rules, Batches(3))
    a, b = ByHand(learner("a")), ByHand(learner("b"))
    for iteration in range(3):
        x, y = batch(iteration)
        x_a, x_b = a.craft(x, y, rules, iteration), b.craft(x, y, rules, iteration)
        a.learn(x, y, x_b, rules, iteration)
        b.learn(x, y, x_a, rules, iteration)
    for own, hand in zip(pair, (a, b)):
        state = {n: v.tobytes() for n, v in own.network.state().items()}
        assert state == {n: v.tobytes() for n, v in hand.network.state().items()}


def test_names_weights_and_all_swapped():
    """The first learner given what the second one was: each ends where the other did."""
    first, second = [learner("a"), learner("b")], [learner("b"), learner("a")]
    satm.train(first, Rules(), Batches(3))
    satm.train(second, Rules(), Batches(3))
    assert bits(first[0]) == bits(second[1]) and bits(first[1]) == bits(second[0])
    assert bits(first[0]) != bits(learner("a")) and bits(first[1]) != bits(learner("b"))


def test_standard_training_learns_from_its_own_examples():
    own, hand, rules = learner("a"), ByHand(learner("a")), Rules(seed=2)
    defences.train_standard([own], rules, Batches(3))
    for iteration in range(3):
        x, y = batch(iteration)
        hand.learn(x, y, hand.craft(x, y, rules, iteration), rules, iteration)
    assert {n: v.tobytes() for n, v in own.network.state().items()} == {
        n: v.tobytes() for n, v in hand.network.state().items()
    }


def test_standard_training_is_an_ensemble_of_oneself():
    one, two = [learner("a"), learner("b")], [learner("a"), learner("b")]
    defences.train_standard(one, Rules(), Batches(3))
    defences.train_ensemble(two, [[own] for own in two], Rules(), Batches(3))
    assert bits(*one) == bits(*two)


def test_a_learner_among_its_sources_crafts_with_its_present_weights():
    """By hand: whichever was drawn crafts, the learner with the weights it has by then."""
    rules, frozen = Rules(seed=1), learner("b", frozen=True)
    own = learner("a")
    defences.train_ensemble([own], [[frozen, own]], rules, Batches(6))
    hand, source = ByHand(learner("a")), ByHand(learner("b"))
    drawn = [int(stream(1, "a", "source", iteration).integers(2)) for iteration in range(6)]
    assert set(drawn) == {0, 1}
    for iteration, choice in enumerate(drawn):
        x, y = batch(iteration)
        hand.learn(x, y, (source, hand)[choice].craft(x, y, rules, iteration), rules, iteration)
    assert {n: v.tobytes() for n, v in own.network.state().items()} == {
        n: v.tobytes() for n, v in hand.network.state().items()
    }


@pytest.mark.skipif(sys.platform != "linux", reason="networks share one process where there is no fork")
@pytest.mark.parametrize("phase", ["standard", "ensemble", "cascade", "distillation", "penalty"])
def test_processes_change_no_bit(monkeypatch, phase):
    """Each process trains its own networks, which craft for themselves where their weights are up to date."""
    monkeypatch.setattr(parallel.threads, "cores", lambda: 2)

    def course(team):
        networks = [learner(name, domain=False) for name in "abc"]
        static = [learner(name, frozen=True, domain=False) for name in "abc"]
        own = phases.own_settings(phase, RELATIVES)
        phases.train(phase, networks, static, Rules(r_da=0.0), Batches(3), team, own_examples=True, **own)
        return team.map(bits, networks)

    assert parallel.in_processes(course, 2) == course(parallel.ALONE)


def test_each_phase_has_its_loop_and_its_own_settings(monkeypatch):
    """Who is given what: the others' static networks, or all, or one's own as well."""
    seen, settings = [], {}

    def loop(name):
        def record(*given, **own):
            seen.append((name, given[1:-3]))
            settings[name] = own

        return record

    for table in (phases.ALONE_LOOPS, phases.LOOPS_WITH_SOURCES):
        for name in table:
            monkeypatch.setitem(table, name, loop(name))
    monkeypatch.setattr(defences, "train_distilled", loop("distillation"))
    team, static = ([Learner(name, None, None) for name in "abc"] for _ in range(2))
    for plan in phases.PLANS.values():
        for phase in plan:
            phases.train(phase, team, static, Rules(), None, **phases.own_settings(phase, RELATIVES))
    hot, own = {"temperature": 3.0}, {"cascade": {"r_embedding": 0.1}, "penalty": {"r_penalty": 0.1}}
    assert settings == dict.fromkeys(settings, {}) | own | {"teacher": hot, "distillation": hot}
    a, b, c = static
    others = ([[b, c], [a, c], [a, b]],)
    expected = {"ensemble": others, "cascade": others, "distillation": (static,)}
    assert {name for name, _ in seen} == {p for plan in phases.PLANS.values() for p in plan}
    assert all(given == expected.get(name, ()) for name, given in seen)
    seen.clear()
    phases.train("cascade", team, static, Rules(), None, own_examples=True)
    assert seen == [("cascade", ([[b, c, team[0]], [a, c, team[1]], [a, b, team[2]]],))]


def test_cascade_without_the_embedding_is_ensemble_training():
    one, two, three = (learner("a") for _ in range(3))
    sources = [[learner("b", frozen=True), learner("c", frozen=True)]]
    defences.train_cascade([one], sources, Rules(), Batches(3))
    defences.train_ensemble([two], sources, Rules(), Batches(3))
    defences.train_cascade([three], sources, Rules(), Batches(3), r_embedding=0.1)
    assert bits(one) == bits(two) != bits(three)


def test_the_unified_embedding_by_hand():
    """r * mean over the images of ||f(x_adv) - f(x)||^2, with the gradient to both halves."""
    x, y = points()
    x_adv = np.clip(x + 0.1 * np.random.default_rng(3).standard_normal(x.shape), 0, 1)
    own, rules = smooth(), Rules(r_da=0.0)
    total, terms = defences.embedding_terms(own, x, y, x_adv, rules, r_embedding=0.7)
    without, _ = satm.loss_terms(own, x, y, x_adv, rules)
    assert terms["loss"] == float(total)
    W, b = own.network.fc1.weight.data, own.network.fc1.bias.data
    f, f_adv = (np.tanh(images.reshape(6, -1) @ W + b) for images in (x, x_adv))
    assert terms["embedding"] == pytest.approx(((f_adv - f) ** 2).sum(axis=1).mean(), rel=1e-12)
    assert float(total) - float(without) == pytest.approx(0.7 * terms["embedding"], rel=1e-9)
    (gW,) = grad(total - without, [own.network.fc1.weight])
    g, g_adv = 2 * (f - f_adv) / 6 * (1 - f**2), 2 * (f_adv - f) / 6 * (1 - f_adv**2)
    np.testing.assert_allclose(gW, 0.7 * (x.reshape(6, -1).T @ g + x_adv.reshape(6, -1).T @ g_adv), atol=1e-12)


def test_the_embedding_alone_needs_examples_too():
    own, (x, y), rules = learner("b"), batch(), Rules(r_adv=0, r_da=0)
    assert satm.examples(own, x, y, rules, 0) is None
    assert satm.examples(own, x, y, rules, 0, always=True) is not None
    for r_embedding, terms in ((0.0, {"clean"}), (0.1, {"clean", "adversarial", "embedding"})):
        watch = Batches(1)
        defences.train_cascade([learner("a")], [[own]], rules, watch, r_embedding=r_embedding)
        ((_, losses),) = watch.seen
        assert terms <= set(losses["a"]) and ("embedding" in losses["a"]) == ("embedding" in terms)


def test_whose_examples_validation_shows():
    """Its own where it learns from those or is alone; else the other network's, of the static ones if those teach."""
    team, static = ([Learner(name + end, None, None) for name in "ab"] for end in ("", "-static"))
    names = {
        phase: [own.name for own in phases.validation_sources(phase, team, static if phase in phases.STATIC else [])]
        for plan in phases.PLANS.values()
        for phase in plan
    }
    partners = dict.fromkeys(("ensemble", "cascade"), ["b-static", "a-static"])
    assert names == {phase: ["b", "a"] for phase in names} | {"standard": ["a", "b"]} | partners
    assert phases.validation_sources("clean", team[:1], []) == team[:1]


# Distillation


def test_soft_labels_by_hand():
    own, (x, _) = smooth(), points()
    logits = own.network(Tensor(x))[0].data / 5
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(defences.soft_labels(own, x, 5.0), p, rtol=1e-12)
    own.network.fc2.bias.data = own.network.fc2.bias.data + 1e4  # no overflow
    np.testing.assert_allclose(defences.soft_labels(own, x, 5.0), p, rtol=1e-9)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_network_loss_at_a_temperature(temperature):
    """T * J(logits / T): the value from its definition; as T grows the gradient keeps its size."""
    rng = np.random.default_rng(0)
    logits, y = Tensor(rng.standard_normal((5, 4)), requires_grad=True), rng.integers(0, 4, 5)
    z = logits.data / temperature
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    loss = defences.at_temperature(temperature)(logits, y)
    assert float(loss) == pytest.approx(-temperature * np.log(p[np.arange(5), y]).mean(), rel=1e-12)
    (g,) = grad(loss, [logits])
    np.testing.assert_allclose(g, (p - np.eye(4)[y]) / 5, atol=1e-12)


def test_a_student_learns_its_teachers_answers():
    """Cross-entropy with the soft labels, by hand; nothing to learn from a teacher that is the student itself."""
    x, y = points()
    student, teacher = smooth(0), smooth(1, "teacher")
    before = bits(teacher)
    soft = defences.soft_labels(teacher, x, 4.0)
    loss, terms = defences.distillation_terms(student, x, y, soft, 4.0)
    logits = student.network(Tensor(x))[0].data
    z = logits / 4
    log_p = z - np.log(np.exp(z).sum(axis=1, keepdims=True))
    assert float(loss) == pytest.approx(-4 * (soft * log_p).sum(axis=1).mean(), rel=1e-12) == terms["clean"]
    assert terms["rate"] == (logits.argmax(axis=1) == y).mean()
    for own, moves in ((teacher, True), (student, False)):
        watched = smooth(0)
        kept = weights_of(watched)
        defences.train_distilled([watched], [own if moves else smooth(0)], Rules(), Points(3), temperature=4.0)
        change = max(np.abs(w - kept[n]).max() for n, w in weights_of(watched).items())
        assert change > 1e-3 if moves else change < 1e-15
    assert bits(teacher) == before


class Points(Batches):
    """The monitor of test_satm, with images for the smooth network."""

    def batches(self):
        for iteration in range(self.iterations):
            yield iteration, *points(seed=iteration)


# The input-gradient penalty


def squared_gradients(network, x, y):
    image = Tensor(x, requires_grad=True)
    loss = ops.softmax_cross_entropy(network(image)[0], Tensor(y), reduction="sum")
    (g,) = grad(loss, [image])
    return (g.reshape(len(x), -1) ** 2).sum(axis=1)


@pytest.mark.parametrize("step, tolerance", [(1e-2, 0.02), (1e-4, 2e-4)])
def test_the_penalty_is_the_squared_input_gradient(monkeypatch, step, tolerance):
    """Its value, and its gradient to every weight against central differences of mean ||grad_x J||^2."""
    monkeypatch.setattr(defences, "STEP", step)
    x, y = points()
    own = smooth()
    found = []
    for r_penalty in (1.0, 0.0):
        ahead = defences.a_step_up(own, x, y)
        total, terms = defences.penalty_terms(own, x, ahead, y, np.random.default_rng(0), r_penalty)
        found.append(grad(total, list(own.network.parameters().values())))
    exact = squared_gradients(own.network, x, y).mean()
    assert terms["penalty"] == pytest.approx(exact, rel=tolerance)
    for with_penalty, without, weight in zip(*found, own.network.parameters().values()):
        kept, numeric = weight.data.copy(), np.zeros_like(weight.data)
        for place in np.ndindex(kept.shape):
            values = []
            for way in (1e-5, -1e-5):
                weight.data = kept.copy()
                weight.data[place] += way
                values.append(squared_gradients(own.network, x, y).mean())
            numeric[place] = (values[0] - values[1]) / 2e-5
        weight.data = kept
        assert np.abs(with_penalty - without - numeric).max() <= tolerance * np.abs(numeric).max()


def test_the_penalty_makes_gradients_small():
    x, y = points()
    norms = []
    for r_penalty in (0.0, 1.0):
        own = smooth()
        defences.train_with_penalty([own], Rules(), Points(60), r_penalty=r_penalty)
        norms.append(squared_gradients(own.network, x, y).mean())
    assert norms[1] < 0.5 * norms[0]


def test_without_a_weight_the_penalty_is_clean_training():
    """To rounding: the same images twice, of which only the first count."""
    one, two = smooth(), smooth()
    defences.train_with_penalty([one], Rules(), Points(3), r_penalty=0.0)
    defences.train_clean([two], Rules(), Points(3))
    for n, w in weights_of(one).items():
        np.testing.assert_allclose(w, two.network.parameters()[n].data, rtol=0, atol=1e-14)


def test_the_penalty_goes_along_the_gradient_that_it_measures():
    """With batch norm in train mode, as in both looks: the slopes add up to the lengths of the gradients."""
    own, (x, y) = learner("b"), batch()
    for norm in (m for _, m in own.network.modules() if isinstance(m, BatchNorm)):
        norm.mean, norm.var = norm.mean + 0.5, 3 * norm.var  # running statistics that are not the batch's
    own.network.astype(np.float64)
    x = x.astype(np.float64)
    before = bits(own)
    ahead = defences.a_step_up(own, x, y)
    g = attacks.input_gradient(own.network, x, y, craft_mode="train")
    lengths = np.sqrt((g**2).reshape(N, -1).sum(axis=1))
    np.testing.assert_allclose(ahead - x, defences.STEP * g / lengths.reshape(-1, 1, 1, 1), atol=1e-12)
    assert bits(own) == before
    own.network.train()
    here, there = (
        float(ops.softmax_cross_entropy(own.network(Tensor(i))[0], Tensor(y), reduction="sum")) for i in (x, ahead)
    )
    assert (there - here) / defences.STEP == pytest.approx(lengths.sum(), rel=0.05)


def test_both_looks_drop_the_same_units():
    """Other units the second time, and the quotient would be their difference over a hundredth."""
    own = learner("a", dropout=0.5)
    x, y = batch()
    own.network.train()
    seed_dropout(own.network, stream(0, "a", "dropout", 0))
    with_dropout = defences.penalty_terms(own, x, x, y, stream(0, "a", "dropout", 0), 1.0)[1]["penalty"]
    assert with_dropout == 0  # looked at the same place twice
    ahead = defences.a_step_up(own, x, y)
    assert np.allclose(np.sqrt(((ahead - x) ** 2).reshape(N, -1).sum(axis=1)), defences.STEP, rtol=1e-3)


# ADDA


def test_adda_by_hand():
    """The first loss moves the classifier alone and tells the two apart; the second one the network alone."""
    rng = np.random.default_rng(1)
    D = Discriminator(7, width=5, rng=rng).astype(np.float64)
    D.fc2.bias.data = D.fc2.bias.data + 0.3
    clean, adversarial = (Tensor(rng.standard_normal((n, 7)), requires_grad=True) for n in (3, 4))
    loss = D.loss(clean, adversarial)
    loss.backward()
    assert clean.grad is None

    W1, W2 = D.fc1.weight.data, D.fc2.weight.data
    features = np.concatenate([clean.data, adversarial.data])
    hidden = np.maximum(features @ W1 + D.fc1.bias.data, 0)
    p = 1 / (1 + np.exp(-(hidden @ W2 + D.fc2.bias.data)[:, 0]))
    told = -(np.log(1 - p[:3]).sum() + np.log(p[3:]).sum()) / 7
    taken = -np.log(1 - p[3:]).mean()  # adversarial images, said to be clean
    assert float(loss) == pytest.approx(told + taken, rel=1e-12)
    g = (p - np.repeat([0, 1], [3, 4]))[:, None] / 7
    np.testing.assert_allclose(D.fc2.weight.grad, hidden.T @ g, atol=1e-12)
    np.testing.assert_allclose(D.fc1.weight.grad, features.T @ (g @ W2.T * (hidden > 0)), atol=1e-12)
    g_features = (p[3:, None] / 4) @ W2.T * (hidden[3:] > 0) @ W1.T
    np.testing.assert_allclose(adversarial.grad, g_features, atol=1e-12)
    assert all(t.requires_grad for t in D.parameters().values())


def test_adda_trains_beside_the_classes():
    """In SATM's step: the classifier and the network both move, by other gradients than behind a reversal."""
    results = []
    for kind in (DomainClassifier, Discriminator):
        pair = [learner("a"), learner("b")]
        for own in pair:
            own.domain = kind(own.network.feature_width, width=6, rng=stream(0, own.name, "domain"))
            own.domain_optimiser = optim.SGD(own.domain.parameters(), RATE)
        before = bits(*pair)
        terms = satm.step(pair, *batch(), Rules(), 0)
        assert terms["a"]["domain"] > 0
        results.append(bits(*pair))
        assert results[-1]["a.domain.fc1.weight"] != before["a.domain.fc1.weight"]
    reversal, adda = results
    assert reversal["a.domain.fc2.weight"] == adda["a.domain.fc2.weight"]  # D itself learns the same
    assert reversal["a.network.fc7.weight"] != adda["a.network.fc7.weight"]


# On a GPU, or its stand-in


@pytest.mark.parametrize("phase", ["standard", "ensemble", "cascade", "distillation", "penalty"])
def test_the_loops_on_cupy(cupy, phase):
    """Weights after two steps, beside NumPy's."""
    rules, found = Rules(r_da=0.0), []
    for where in ("numpy", "cupy"):
        own, other, teacher = smooth(0, "own"), smooth(1, "other"), smooth(2, "own")
        for one in (own, other, teacher):
            one.network.to(where)
        own.optimiser = optim.SGD(own.network.parameters(), RATE)
        watch, start = Points(2), [t.data.copy() for t in smooth(0).network.parameters().values()]
        given = [(i, backend.placed(x, where), y) for i, x, y in watch.batches()]
        watch.batches = lambda given=given: given
        static = [other if phase in phases.ADVERSARIAL else teacher]
        phases.train(phase, [own], static, rules, watch, **phases.own_settings(phase, RELATIVES))
        found.append([backend.placed(t.data, "numpy") for t in own.network.parameters().values()])
    for before, expected, ours in zip(start, *found):
        assert np.abs(ours - expected).max() <= 1e-9 * np.abs(expected - before).max()


# Settings


@pytest.mark.parametrize("method", ["compare", "ensemble", "cascade", "satm"])
def test_these_need_a_partner(method):
    with pytest.raises(InputError, match=f"{method} trains networks on one another's examples and needs two or more"):
        config.from_preset("smoke", {"method": method, "networks": ("vgg16",)})


@pytest.mark.parametrize("changes", [{"temperature": 0.5}, {"r_penalty": -1.0}, {"r_embedding": -0.1}, {"domain": "x"}])
def test_settings_out_of_range(changes):
    with pytest.raises(InputError, match=r"too small|unknown domain 'x': choose none, reversal, adda"):
        config.from_preset("smoke", changes)
