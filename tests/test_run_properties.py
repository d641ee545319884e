"""What must hold of any run: where its phases start, who is shown what, what its tables hold, what is never lost."""

import csv
import os
import signal
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
from tiny_runs import PowerCut, arrays, at, outcome, table

from minisatm import InputError, satm
from minisatm.evaluation.crossing import Crossing
from minisatm.evaluation.setting import AttackSetting
from minisatm.run import experiment, phases
from minisatm.run import monitor as monitors
from minisatm.run.experiment import Experiment, RunFolder
from minisatm.run.folder import Position
from minisatm.satm import Rules


@pytest.fixture
def alone(tiny, monkeypatch):
    """Settings of runs that stay in this process."""
    monkeypatch.setattr(experiment, "is_narrow", lambda *sizes: False)
    return tiny


def prepared(settings):
    return Experiment(settings, experiment.images.prepare_data(settings))


def bits_of(network):
    return {n: np.asarray(a).tobytes() for n, a in network.state().items()}


@pytest.fixture
def watched(monkeypatch):
    """Phases that train nothing, except that each adds one to every weight; they note how each learner began."""
    seen = {}

    def train(phase, learners, static, rules, monitor, team, **own):
        seen[phase] = SimpleNamespace(
            start={k.name: bits_of(k.network) for k in learners}, static={k.name: bits_of(k.network) for k in static},
            learners={k.name: k for k in learners}, rules=rules, sources=dict(monitor.shown),
        )  # fmt: skip
        for learner in learners:
            for weight in learner.network.parameters().values():
                weight.data = weight.data + len(seen)

    def watching(run, position, steps, learners, sources, *rest):
        shown = {k.name: source and source.name for k, source in zip(learners, sources)}
        return SimpleNamespace(stopped_early=False, shown=shown)

    monkeypatch.setattr(experiment.phases, "train", train)
    monkeypatch.setattr(experiment, "Monitor", watching)
    return seen


# Where a phase starts


@pytest.mark.parametrize("method", ["compare", "cascade", "distillation"])
def test_every_phase_starts_from_the_fine_tuned_networks(alone, watched, tmp_path, method):
    run = prepared(alone(method=method))
    folder = RunFolder.create(tmp_path / "run", run.settings, list(run.kinds))
    run.train(folder, run.start_networks(), None)
    plan = phases.PLANS[method]
    assert list(watched) == list(plan)
    fine_tuned = {name: bits_of(network) for name, network in run.methods["undefended"].items()}
    assert all(watched["clean"].start[name] != fine_tuned[name] for name in "ab")
    ends = {phase: {n: bits_of(k) for n, k in run.methods[phase].items()} for phase in plan[1:]}
    for phase in plan[1:]:
        assert watched[phase].start == fine_tuned, phase
        assert all(ends[phase][name] != fine_tuned[name] for name in "ab")  # and each has arrays of its own
    for phase, earlier in phases.STATIC.items():
        if phase in plan:
            assert watched[phase].static == (fine_tuned if earlier == "undefended" else ends[earlier])


@pytest.mark.parametrize("method, phase", [("satm", "satm"), ("cascade", "cascade"), ("compare", "control")])
def test_a_later_phase_resumed_starts_from_the_networks_in_the_folder(alone, watched, tmp_path, method, phase):
    settings = alone(method=method)
    run = prepared(settings)
    folder = RunFolder.create(tmp_path / "run", settings, list(run.kinds))
    run.train(folder, run.start_networks(), None)
    whole = dict(watched)
    watched.clear()
    again = prepared(settings)
    again.train(folder, again.start_networks(), Position(phase, 1))
    assert watched[phase].start == whole[phase].start and watched[phase].static == whole[phase].static
    done = phases.PLANS[method][: phases.PLANS[method].index(phase)]
    for earlier in ("undefended", *done[1:]):
        assert {n: bits_of(k) for n, k in again.methods[earlier].items()} == {
            n: bits_of(k) for n, k in run.methods[earlier].items()
        }


# Who sees whose examples


@pytest.mark.parametrize("holdout", ["resnet101", "resnet50", "vgg16", "resnet20", "none"])
def test_validation_pairs_networks_whatever_the_depth_of_the_hold_out(alone, watched, tmp_path, holdout):
    """In the clean phase the deepest network comes first, and the hold-out need not be it."""
    run = prepared(alone(networks=("a=vgg16", "b=resnet50", "c=resnet20"), holdout=holdout, method="satm"))
    run.train(RunFolder.create(tmp_path / "run", run.settings, list(run.kinds)), run.start_networks(), None)
    pairs = {"a": "b", "b": "c", "c": "a"}
    assert watched["satm"].sources == pairs
    assert watched["clean"].sources == pairs | ({run.holdout: None} if run.holdout else {})
    depths = [len(k.network.parameters()) for k in watched["clean"].learners.values()]
    assert depths == sorted(depths, reverse=True) or holdout == "none"


# What a learner gets


def test_a_learner_has_the_settings_rates(alone):
    changes = dict(networks=("a=vgg16", "b=resnet20"), holdout="resnet20", learning_rate=(0.3, 0.7), momentum=0.6,
                   weight_decay=0.02)  # fmt: skip
    for rate, expected in ((0.11, (0.11, 0.11)), (None, (0.3, 0.7)), (0.0, (0.0, 0.0))):
        run = prepared(alone(**changes, da_learning_rate=rate))
        networks = run.start_networks()
        learners = {name: run._learner(name, networks[name], "satm") for name in ("a", "b")}
        assert tuple(k.domain_optimiser.learning_rate for k in learners.values()) == expected
        assert [k.optimiser.learning_rate for k in learners.values()] == [0.3, 0.7]
        for learner in learners.values():
            settings = dict(momentum=0.6, weight_decay=0.02)
            assert settings.items() <= learner.optimiser.settings.items()
            assert settings.items() <= learner.domain_optimiser.settings.items()
    own = run._learner(run.holdout, networks[run.holdout], "clean")
    assert own.optimiser.learning_rate == 0.7 and own.domain is None  # the last rate given


@pytest.mark.parametrize("domain, r_da, phase, wanted", [
    ("reversal", 0.3, "satm", "DomainClassifier"), ("adda", 0.3, "ensemble", "Discriminator"),
    ("none", 0.3, "satm", None),
    ("reversal", 0.0, "satm", None), ("reversal", 0.3, "clean", None), ("adda", 0.3, "standard", None),
])  # fmt: skip
def test_without_a_domain_classifier_the_rules_have_no_weight_for_it(alone, domain, r_da, phase, wanted):
    """Else a run with --r-adv 0 --domain none would craft examples, and batch norm would see them."""
    run = prepared(alone(domain=domain, r_da=r_da, r_adv=0.0))
    learner = run._learner("a", run.start_networks()["a"], phase)
    assert (type(learner.domain).__name__ if learner.domain else None) == wanted
    rules = run._rules(phase, 10)
    assert rules.r_da == (r_da if wanted else 0.0)
    x, y = np.full((2, 32, 32, 3), 0.5, np.float32), np.array([0, 1])
    assert (satm.examples(learner, x, y, rules, 0) is not None) == bool(wanted)


def test_the_warm_up_is_at_most_half_a_phase(alone):
    run = prepared(alone(warmup=20, schedule="constant"))
    for steps in (4, 10, 40, 100):
        factors = [run._rules("satm", steps).schedule(i) for i in range(steps)]
        ends = min(20, steps // 2)
        assert factors == pytest.approx([min(1, (i + 1) / ends) for i in range(steps)])


# Tables


@pytest.fixture
def measured(alone, monkeypatch, tmp_path):
    """The tables of a run whose networks give answers that are made up: all of "a" are one class too high."""
    run = prepared(alone(method="satm"))
    classes, true = len(run.dataset.classes), np.arange(16) % 3
    run.methods = {m: dict.fromkeys("ab") for m in ("undefended", "satm")}

    def cross(networks, batches, setting, *, pairs, **rest):
        answers = {}
        for target, source in pairs:
            shift = (target.endswith("a")) + 2 * (target == "satm/b") + 3 * bool(source)
            answers[target, source] = (true + shift) % classes
        sizes = {source: np.full(16, 0.01) for _, source in answers}
        return Crossing(AttackSetting("step_ll", 0.1), true, answers, answers, sizes, {})

    monkeypatch.setattr(experiment, "cross", cross)
    (tmp_path / "run" / "tables").mkdir(parents=True)
    run.measure(RunFolder(tmp_path / "run"))
    return tmp_path / "run" / "tables", true, classes


def test_a_line_of_a_confusion_table_is_a_true_class(measured):
    tables, true, classes = measured
    for method, name, shift in (("undefended", "a", 1), ("undefended", "b", 0), ("satm", "a", 1), ("satm", "b", 2)):
        header, *lines = csv.reader((tables / f"confusion_{method}_{name}.csv").open())
        counts = np.array(lines, int)
        assert header[0] == "(0, 2)" and counts.shape == (classes, classes)
        for k in range(classes):
            expected = np.zeros(classes, int)
            expected[(k + shift) % classes] = (true == k).sum()
            assert counts[k].tolist() == expected.tolist()


def test_the_main_table_has_rates_of_clean_images_where_it_says_so(measured):
    rows = table(measured[0] / "results.csv")
    clean = {(r["method"], r["network"]): (r["rate"], r["one_off"]) for r in rows if r["condition"] == "clean"}
    assert clean["undefended", "b"] == ("1", "1") and clean["undefended", "a"] == ("0", "1")
    assert clean["satm", "b"] == ("0", "0")
    assert all(r["rate"] == "0" for r in rows if r["source"])


# What is never lost


def losses_of(monkeypatch, **losses):
    """Validation losses as if each network's were these, evaluation after evaluation; "rest" is all others'."""
    turn = {"at": -1}

    def validate(learners, sources, batches, rules, *, limit, **more):
        turn["at"] += bool(batches.augment)  # the training images come first
        found = {}
        for learner in learners:
            value = losses.get(learner.name, losses["rest"])
            value = float(value[min(turn["at"], len(value) - 1)])
            rate = 0.25 if batches.augment else 0.75
            found[learner.name] = {"rate": rate, "adversarial_rate": rate / 5, "clean": value, "loss": value + 10}
        return found

    monkeypatch.setattr(monitors, "validate", validate)


@pytest.mark.parametrize("hold_out, steps", [([100, 50, 10, 1, 0], 8), ([1, 2, 30, 40, 500], 8)])
def test_the_hold_out_has_no_say_in_early_stopping(alone, tmp_path, monkeypatch, hold_out, steps):
    """2, 1, 3, 4: it stops after the fourth evaluation, however the hold-out does."""
    losses_of(monkeypatch, rest=[2, 1, 3, 4, 5, 6], resnet20=hold_out)
    settings = alone(method="clean", holdout="resnet20", clean_iterations=20, patience=2)
    experiment.run_new(settings, tmp_path / "run")
    assert len(table(tmp_path / "run" / "log.csv")) == steps
    best = at(tmp_path / "run" / "best.h5")
    assert (best["iteration"], best["best"]) == (4, 2.0)


def test_a_lower_loss_ends_the_count_of_patience(alone, tmp_path, monkeypatch):
    losses_of(monkeypatch, rest=[3, 4, 2, 3, 4, 5])
    experiment.run_new(alone(method="clean", clean_iterations=20, patience=2), tmp_path / "run")
    assert [row["iteration"] for row in table(tmp_path / "run" / "epochs.csv")] == ["1", "3", "5", "7", "9"]
    assert at(tmp_path / "run" / "best.h5")["iteration"] == 6


def test_epochs_say_which_images_and_which_loss(alone, tmp_path, monkeypatch):
    losses_of(monkeypatch, rest=[2, 3, 4, 5], b=[7, 8, 9, 10])
    experiment.run_new(alone(clean_iterations=4, iterations=4), tmp_path / "run")
    rows = table(tmp_path / "run" / "epochs.csv")
    rates = ("train_clean", "train_adversarial", "validation_clean", "validation_adversarial")
    assert [[float(row[f"b.{k}"]) for k in rates] for row in rows] == [[0.25, 0.05, 0.75, 0.15]] * 4
    # clean images alone decide in the clean phase, the whole loss where examples are learnt from
    assert [(r["a.validation_loss"], r["b.validation_loss"]) for r in rows] == [
        ("2", "7"), ("3", "8"), ("14", "19"), ("15", "20")]  # fmt: skip


@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_weights_that_are_not_finite_are_never_in_a_checkpoint(alone, tmp_path, monkeypatch, value):
    """One weight of a network whose losses are all finite."""
    losses_of(monkeypatch, rest=[2, 3, 4, 5])
    real = monitors.Monitor.stop

    def stop(self, iteration, losses):
        if (self.position.phase, iteration) == ("satm", 3):
            weight = self.learners[1].network.parameters()["stem.conv.weight"]
            weight.data = np.where(np.arange(weight.data.size).reshape(weight.shape) == 5, value, weight.data)
        return real(self, iteration, losses)

    monkeypatch.setattr(monitors.Monitor, "stop", stop)
    with pytest.raises(InputError, match=r"a weight of b is not finite at step 3 of satm: .* good weights \(step 2\)"):
        experiment.run_new(alone(), tmp_path / "run")
    assert at(tmp_path / "run" / "last.h5")["iteration"] == 2
    with h5py.File(tmp_path / "run" / "last.h5") as h5:
        assert np.isfinite(h5["b/network/stem.conv.weight"][()]).all()


def test_the_best_weights_survive_a_cut_before_they_are_copied(alone, tmp_path, monkeypatch):
    """A power cut between last.h5 and its copy best.h5; going on, it stops early and takes the best weights."""
    losses_of(monkeypatch, rest=[1, 2, 3, 4])
    settings, out = alone(clean_iterations=0, iterations=20, patience=2), tmp_path / "run"

    def cut(self):
        raise PowerCut

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunFolder, "keep_as_best", cut)
        with pytest.raises(PowerCut):
            experiment.run_new(settings, out)
    good = arrays(out / "last.h5")
    assert at(out / "last.h5")["best_at"] == 2 and not (out / "best.h5").exists()
    losses_of(monkeypatch, rest=[2, 3, 4])
    experiment.run_on(out, settings)
    assert arrays(out / "best.h5") == good and len(table(out / "log.csv")) == 6
    final = {n.removeprefix("weights/"): b for n, b in arrays(out / "networks" / "satm-b.h5").items()}
    assert final == {n.removeprefix("b/network/"): b for n, b in good.items() if n.startswith("b/network/")}


def interrupting(monkeypatch, iteration, times):
    """SIGINT to this process in the middle of this step of SATM."""
    real = satm.step

    def step(learners, x, y, rules, at, *rest):
        for _ in range(times if at == iteration else 0):
            os.kill(os.getpid(), signal.SIGINT)
        return real(learners, x, y, rules, at, *rest)

    patch = pytest.MonkeyPatch()
    patch.setattr(satm, "step", step)
    return patch


def test_ctrl_c_completes_the_step_in_hand(alone, whole, tmp_path, monkeypatch):
    settings, out = alone(), tmp_path / "run"
    before = signal.getsignal(signal.SIGINT)
    patch = interrupting(monkeypatch, 2, times=1)
    with pytest.raises((monitors.Interrupted, KeyboardInterrupt)) as how:
        experiment.run_new(settings, out)
    patch.undo()
    assert how.type is monitors.Interrupted  # not in the middle of the step
    assert signal.getsignal(signal.SIGINT) is before
    assert at(out / "last.h5")["iteration"] == 3  # no evaluation is due there
    assert [r["iteration"] for r in table(out / "log.csv") if r["phase"] == "satm"] == ["0", "1", "2"]
    seen = []
    real = satm.step

    def step(learners, x, y, rules, iteration, *rest):
        seen.append(iteration)
        return real(learners, x, y, rules, iteration, *rest)

    monkeypatch.setattr(satm, "step", step)
    experiment.run_on(out, settings)
    assert seen == [3, 4]  # no step twice, none left out
    assert outcome(out) == whole("satm")


def test_a_second_ctrl_c_acts_at_once(alone, tmp_path, monkeypatch):
    patch = interrupting(monkeypatch, 3, times=2)
    with pytest.raises(KeyboardInterrupt):
        experiment.run_new(alone(), tmp_path / "run")
    patch.undo()
    assert at(tmp_path / "run" / "last.h5")["iteration"] == 2


def test_rows_of_steps_after_the_checkpoint_are_forgotten(tmp_path, alone):
    run = RunFolder.create(tmp_path / "run", alone(), ["a", "b"])
    for phase in ("clean", "satm"):
        for k in range(4):
            run.append("log.csv", dict(phase=phase, iteration=k))
    run.forget_after(Position("satm", 2), ["clean", "satm"])
    kept = [(r["phase"], r["iteration"]) for r in table(run.path / "log.csv")]
    assert kept == [("clean", str(k)) for k in range(4)] + [("satm", "0"), ("satm", "1")]


def test_rules_keep_their_names():
    """What the loops read is what the settings call by the same name."""
    assert {"epsilon", "alpha", "r_adv", "r_da", "attack", "loss_norm", "craft_mode", "bn_batches", "clip", "seed"} == (
        set(Rules.__dataclass_fields__) - {"schedule"}
    )
