"""What SATM is measured against: whose examples are learnt from, soft labels, the gradient penalty, ADDA."""

import sys

import numpy as np
import pytest
from learners import Batches, ByHand, batch, bits, learner
from smooth_networks import RATE, RELATIVES, Points, points, smooth

from minisatm import InputError, Tensor, backend, grad, optim, parallel, satm
from minisatm.defences import training as defences
from minisatm.run import phases
from minisatm.run import settings as config
from minisatm.satm import Learner, Rules
from minisatm.streams import stream

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


def test_soft_labels_come_from_a_teacher_at_rest():
    """In eval mode, whatever mode it was in: without dropout, and with the running statistics of batch norm."""
    for name in "ab":
        teacher, (x, _) = learner(name), batch()
        logits = teacher.network.eval()(Tensor(x))[0].data.astype(float) / 4
        teacher.network.train()
        before = bits(teacher)
        expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        np.testing.assert_allclose(defences.soft_labels(teacher, x, 4.0), expected, rtol=1e-4)
        assert bits(teacher) == before


def test_each_student_has_its_own_teacher():
    """Two at once end where each ends alone, and where its teacher is another, elsewhere."""
    pair, teachers = [smooth(0, "a"), smooth(1, "b")], [smooth(2, "a"), smooth(3, "b")]
    defences.train_distilled(pair, teachers, Rules(), Points(3), temperature=4.0)
    for k, name in enumerate("ab"):
        alone = [smooth(k, name), smooth(k, name)]
        for student, teacher in zip(alone, (teachers[k], teachers[1 - k])):
            defences.train_distilled([student], [teacher], Rules(), Points(3), temperature=4.0)
        assert bits(pair[k]) == bits(alone[0]) != bits(alone[1])


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
