"""The loops around a step: ensemble training, more than two networks, processes, and the draws that nobody changes."""

import os
import sys

import numpy as np
import pytest
from learners import RATE, Batches, batch, bits, learner, record_crafting

from minisatm import Tensor, ops, parallel, satm
from minisatm.defences import training as defences
from minisatm.satm import Learner, Rules
from minisatm.streams import stream

# Relatives


@pytest.mark.parametrize(
    "rules", [Rules(), Rules(clip=1.0, loss_norm="half", bn_batches="separate")], ids=["plain", "clip"]
)
def test_with_b_frozen_it_is_ensemble_training(rules):
    """Weights, buffers, momentum and classifier, bit for bit; the learner has dropout, the source batch norm."""
    for name, other in (("a", "b"), ("b", "a")):
        one, source_of_one = learner(name), learner(other, frozen=True)
        satm.train([one, source_of_one], rules, Batches(4))
        two, source_of_two = learner(name), learner(other, frozen=True)
        defences.train_ensemble([two], [[source_of_two]], rules, Batches(4))
        assert bits(one) == bits(two)
        assert bits(source_of_one) == bits(source_of_two) == bits(learner(other, frozen=True))


def test_with_b_learning_it_is_not_ensemble_training():
    one, two = learner("a"), learner("a")
    satm.train([one, learner("b")], Rules(), Batches(3))
    defences.train_ensemble([two], [[learner("b", frozen=True)]], Rules(), Batches(3))
    differ = [n for n, v in bits(one).items() if v != bits(two)[n]]
    assert "a.network.conv1_1.weight" in differ and "a.optimiser.fc8.weight:velocity" in differ


def test_ensemble_sources_are_drawn_and_serve_several_learners():
    """One for each batch, by a stream of the learner's own; a source that two learners have drawn crafts once."""
    seen = []
    b, c = learner("b", frozen=True), learner("c", frozen=True)
    real = satm.examples

    def examples(own, x, y, rules, iteration, **rest):
        seen.append((iteration, own.name))
        return real(own, x, y, rules, iteration, **rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(defences, "examples", examples)
        defences.train_ensemble([learner("a"), learner("d")], [[b, c], [b]], Rules(seed=3), Batches(8))
    drawn = ["bc"[stream(3, "a", "source", iteration).integers(2)] for iteration in range(8)]
    assert set(drawn) == {"b", "c"}
    assert sorted(seen) == sorted({(i, own) for i in range(8) for own in ("b", drawn[i])})


def test_without_adversarial_and_domain_loss_it_is_clean_training():
    pair, clean = [learner("a"), learner("b")], [learner("a"), learner("b")]
    watch, watch_clean = Batches(3), Batches(3)
    satm.train(pair, Rules(r_adv=0, r_da=0), watch)
    defences.train_clean(clean, Rules(), watch_clean)
    assert bits(*pair) == bits(*clean)
    assert watch.seen == watch_clean.seen
    with_loss = [learner("a"), learner("b")]
    satm.train(with_loss, Rules(r_da=0), Batches(3))
    assert bits(*with_loss)["a.network.conv1_1.weight"] != bits(*pair)["a.network.conv1_1.weight"]


def test_clean_training_is_plain_sgd_on_the_clean_loss():
    own, hand = learner("b"), learner("b")
    defences.train_clean([own], Rules(), Batches(1))
    x, y = batch(0)
    ops.softmax_cross_entropy(hand.network.train()(Tensor(x))[0], Tensor(y)).backward()
    for n, w in hand.network.parameters().items():
        assert (w.data - RATE * w.grad).tobytes() == own.network.parameters()[n].data.tobytes()


def test_dropout_is_a_function_of_the_seed():
    results = []
    for seed in (0, 0, 1):
        own = learner("a")
        defences.train_clean([own], Rules(seed=seed), Batches(2))
        results.append(bits(own)["a.network.fc7.weight"])
    assert results[0] == results[1] != results[2]


@pytest.mark.parametrize("loop", ["clean", "ensemble", "satm"])
def test_loops_stop_when_the_monitor_says_so(loop):
    watch = Batches(5, stop_after=1)
    pair, frozen = [learner("b"), learner("c")], [learner("d", frozen=True)]
    if loop == "clean":
        defences.train_clean(pair, Rules(), watch)
    elif loop == "ensemble":
        defences.train_ensemble(pair, [frozen, frozen], Rules(), watch)
    else:
        satm.train(pair, Rules(), watch)
    assert [iteration for iteration, _ in watch.seen] == [0, 1]
    assert all(list(losses) == ["b", "c"] for _, losses in watch.seen)
    assert all(own.optimiser.steps == 2 for own in pair)


# More than two


@pytest.mark.parametrize("K", [2, 3, 4, 5])
def test_every_other_network_is_the_source_equally_often(K):
    team = [Learner(str(k), None, None) for k in range(K)]
    for k in range(K):
        turns = [satm.source(team, k, iteration).name for iteration in range(3 * (K - 1))]
        assert str(k) not in turns
        assert sorted(turns) == sorted(3 * [str(j) for j in range(K) if j != k])
        assert len(set(turns[: K - 1])) == K - 1  # in turn, not in runs


def test_three_networks_learn_from_one_another(monkeypatch):
    crafted, learned = record_crafting(monkeypatch)
    team = [learner(name) for name in "abc"]
    for iteration, sources in ((0, "bca"), (1, "cab"), (2, "bca")):
        learned.clear()
        satm.step(team, *batch(iteration), Rules(), iteration)
        assert sorted(name for name, _ in learned) == ["a", "b", "c"]
        for name, given in learned:
            assert np.array_equal(given, crafted[sources["abc".index(name)]][1])


# Nobody's draws depend on anybody else


@pytest.mark.skipif(sys.platform != "linux", reason="networks share one process where there is no fork")
@pytest.mark.parametrize("rules", [Rules(), Rules(clip=1.0, craft_mode="train", bn_batches="separate")], ids=str)
@pytest.mark.parametrize("processes", [2, 3])
def test_processes_change_no_bit(monkeypatch, processes, rules):
    """Each process trains its own networks, and all hear the same losses."""
    monkeypatch.setattr(parallel.threads, "cores", lambda: processes)

    def course(team):
        networks, watch = [learner("a"), learner("b"), learner("c")], Batches(4)
        satm.train(networks, rules, watch, team)
        found = team.map(lambda own: (bits(own), os.getpid()), networks)
        return [own for own, _ in found], len({pid for _, pid in found}), team.map(lambda w: w.seen, [watch] * 3)

    states, used, seen = parallel.in_processes(course, processes)
    expected, alone, (losses, *_) = course(parallel.ALONE)
    assert (used, alone) == (processes, 1)
    assert states == expected
    assert seen == [losses] * 3


@pytest.mark.skipif(sys.platform != "linux", reason="networks share one process where there is no fork")
def test_processes_change_no_bit_of_ensemble_training(monkeypatch):
    monkeypatch.setattr(parallel.threads, "cores", lambda: 2)

    def course(team):
        networks, sources = [learner("a"), learner("b")], [learner("c", frozen=True), learner("d", frozen=True)]
        defences.train_ensemble(networks, [sources, sources[::-1]], Rules(), Batches(3), team)
        return team.map(bits, networks)

    assert parallel.in_processes(course, 2) == course(parallel.ALONE)


@pytest.mark.skipif(sys.platform != "linux", reason="networks share one process where there is no fork")
def test_weights_trained_elsewhere_are_fetched_by_name_and_never_silently_old(monkeypatch):
    """Until they are fetched, using a network that another process has trained is an error that names it."""
    monkeypatch.setattr(parallel.threads, "cores", lambda: 2)
    x, y = batch()

    def course(team):
        networks = [learner("a"), learner("b")]
        defences.train_clean(networks, Rules(), Batches(2), team)
        other = networks[1 - team.rank]
        with pytest.raises(RuntimeError) as old:
            satm.examples(other, x, y, Rules(), 0)
        with pytest.raises(RuntimeError):
            other.state()
        team.fetch(networks)
        return team.map(lambda _: (str(old.value), bits(*networks)), range(2))

    (first, one), (second, two) = parallel.in_processes(course, 2)
    assert first == "process 1 has trained b, its weights here are old: call team.fetch first."
    assert second == "process 0 has trained a, its weights here are old: call team.fetch first."
    expected = [learner("a"), learner("b")]
    defences.train_clean(expected, Rules(), Batches(2))
    assert one == two == bits(*expected)


def test_the_order_of_the_networks_changes_no_bit():
    forth, back = [learner("a"), learner("b")], [learner("b"), learner("a")]
    satm.train(forth, Rules(), Batches(3))
    satm.train(back, Rules(), Batches(3))
    assert bits(*forth) == bits(*back)


def test_freezing_or_adding_a_network_changes_nobodys_draws(monkeypatch):
    results = []
    for team in (
        [learner("a"), learner("b")],
        [learner("a"), learner("b", frozen=True)],
        [learner("a"), learner("b"), learner("c")],
    ):
        with pytest.MonkeyPatch.context() as patch:
            crafted, _ = record_crafting(patch)
            satm.step(team, *batch(), Rules(), 0)
        results.append((crafted["a"][1].tobytes(), crafted["b"][1].tobytes(), bits(team[0])))
    assert results[0] == results[1] == results[2]  # at iteration 0 the source of A is B in all three
