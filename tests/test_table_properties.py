"""What must hold of every table, figure and verdict: each number stands where it says, each interval ends there."""
# ruff: noqa: F401, F811 (imported fixtures, and arguments of their names)

import math
import re

import numpy as np
import pytest
from evaluation_runs import THREE, batches, call, few_questions, lively, networks, run
from hypothesis import given
from hypothesis import strategies as st
from run_folders import make_pairs, make_run

from minisatm import attacks, metrics, optim, satm
from minisatm.evaluation import crossing, curves, main_table, masking, matrix, session
from minisatm.evaluation import validation as validations
from minisatm.evaluation.crossing import Crossing
from minisatm.evaluation.setting import AttackSetting
from minisatm.models.network import predict
from minisatm.results import figures, page, readings
from minisatm.results.rows import Difference, Row
from minisatm.results.tables import CONDITIONS, METHODS, Results
from minisatm.satm import Rules

# Intervals


@given(st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.floats(0.5, 4))
def test_the_ends_of_wilsons_interval_are_z_deviations_away(counts, z):
    """Its definition: |rate - p| = z * sqrt(p (1 - p) / n) at both ends p, with the deviation of p and not of rate."""
    rate, n = counts[0] / counts[1], counts[1]
    for end, name in zip(metrics.interval(rate, n, z), ("low", "high")):
        away = end - rate if name == "high" else rate - end
        assert away == pytest.approx(z * math.sqrt(end * (1 - end) / n), abs=1e-9)
    assert metrics.interval(rate, n) == metrics.interval(rate, n, 1.96)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60), st.floats(0.5, 3))
def test_a_paired_interval_is_bonett_and_prices(answers, z):
    a, b = np.array(answers).T
    n, more, fewer = len(a) + 2, (a > b).sum() + 1, (b > a).sum() + 1
    middle = (more - fewer) / n
    half = z * math.sqrt(((more + fewer) / n - middle**2) / n)
    difference, low, high = metrics.paired_difference(a, b, z)
    assert (low, high) == pytest.approx((max(-1, middle - half), min(1, middle + half)))
    assert metrics.paired_difference(b, a, z) == pytest.approx((-difference, -high, -low))
    assert metrics.paired_difference(a, b) == metrics.paired_difference(a, b, 1.96)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1))
def test_rates_are_in_their_columns(answers):
    true, answer = np.array(answers).T
    found = metrics.rates(metrics.confusion_matrix(true, answer, 6))
    rate, near, n = (true == answer).mean(), (abs(true - answer) < 2).mean(), len(true)
    ends = (*metrics.interval(rate, n), *metrics.interval(near, n))
    assert list(found) == ["n", "rate", "rate_low", "rate_high", "one_off", "one_off_low", "one_off_high"]
    expected = [n, rate, *ends[:2], near, *ends[2:]]
    assert list(found.values()) == pytest.approx(expected)
    group, most, most_near = metrics.majority_rate(true, 6)
    assert most == max((true == k).mean() for k in range(6)) == (true == group).mean()
    assert most_near == (abs(true - group) < 2).mean() and group == min(
        k for k in range(6) if (true == k).mean() == most
    )


@pytest.mark.parametrize("low, high, verdict", [
    (0.01, 0.2, "above"), (-0.2, -0.01, "below"), (-0.1, 0.1, "no clear difference"), (0.0, 0.1, "no clear difference"),
    (-0.1, 0.0, "no clear difference"),
])  # fmt: skip
def test_only_an_interval_on_one_side_of_zero_is_a_verdict(low, high, verdict):
    row = Difference("satm", "control", "clean", "a", 100, (low + high) / 2, low, high)
    assert readings.comparisons(Results({}, [], [row]))[0][-1] == verdict
    right = {"a": np.arange(400) < 200 + round(400 * (low + high) / 2), "b": np.arange(400) < 200}
    evidence = masking.MaskingEvidence(np.zeros(400), right, *[np.ones(400)] * 4)
    points = metrics.paired_difference(right["a"], right["b"], masking.Z)
    wanted = masking.SIGN if points[1] > 0 else masking.NO_SIGN if points[0] <= 0 else masking.CANNOT_TELL
    assert masking._stronger("c", evidence, "b", "a").verdict == wanted


# The loss terms that are logged


def test_the_logged_rates_are_each_of_their_own_images():
    rng = np.random.default_rng(0)
    x, x_adv = rng.random((2, 16, 16, 16, 3), np.float32)
    network = lively(x, 0).eval()
    own = satm.Learner("b", network, optim.SGD(network.parameters(), 0.05))
    y = predict(network, x)
    there = (predict(own.network, x_adv) == y).mean()
    terms = satm.loss_terms(own, x, y, x_adv, Rules())[1]
    assert there < 1 and (terms["rate"], terms["adversarial_rate"]) == (1.0, pytest.approx(there))
    swapped = satm.loss_terms(own, x_adv, y, x, Rules())[1]
    assert (swapped["rate"], swapped["adversarial_rate"]) == (pytest.approx(there), 1.0)
    assert swapped["clean"] == pytest.approx(terms["adversarial"], rel=1e-5)
    stepped = satm.learn_from(own, x, y, x_adv, Rules(schedule=lambda k: 0.25 + k), 0)
    assert stepped["learning_rate"] == pytest.approx(own.optimiser.learning_rate * 0.25)


def test_validation_is_the_mean_over_images_and_not_over_batches(networks, batches):
    """Two batches, of 16 and of the rest, and an attack whose examples rounding changes."""
    rules = Rules(attack="fgsm", epsilon=2.6 / 255, r_da=0.0)
    names = ("undefended/x", "satm/x")
    pair = [satm.Learner(name, networks[name]) for name in names]
    found = validations.validate(pair, [pair[1], None], batches, rules, limit=20)
    images = list(batches.in_order(20))
    assert [len(y) for _, y in images] == [16, 4]
    x, y = (np.concatenate(part) for part in zip(*images))
    x_adv = np.concatenate([attacks.fgsm(networks["satm/x"], *image, epsilon=2.6 / 255) for image in images])
    kept = (np.rint(255 * x_adv).clip(np.rint(255 * x) - 2, np.rint(255 * x) + 2) / 255).astype(np.float32)
    network = networks["undefended/x"]
    for shown, rate, term in ((x, "rate", "clean"), (kept, "adversarial_rate", "adversarial")):
        logits = attacks.logits_of(network, shown).astype(np.float64)
        losses = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(20), y]
        assert found["undefended/x"][rate] == pytest.approx((logits.argmax(axis=1) == y).mean(), abs=1e-6)
        assert found["undefended/x"][term] == pytest.approx(losses.mean(), rel=1e-4)
    assert set(found["satm/x"]) == {"loss", "clean", "rate"}  # without a source: clean images alone


# The main table and its differences


def answers_of(rates, n=400):
    """Answers of so many of 400 images right, for each pair; a different set of images for each."""
    rng = np.random.default_rng(0)
    return {pair: np.where(rng.permutation(n) < round(rate * n), 0, 1) for pair, rate in rates.items()}


def test_differences_are_satm_minus_the_other_and_never_white_box():
    methods, names = ("undefended", "control", "ensemble", "satm"), ("a", "b")
    wanted = main_table.cases(methods, names, "h")
    rates = {main_table.pair_of(case): 0.1 + 0.8 * k / len(wanted) for k, case in enumerate(wanted)}
    answers = answers_of(rates)
    found = Crossing(AttackSetting("fgsm", 0.1), np.zeros(400, int), answers, answers, {}, {})
    rows = main_table.differences(found, wanted)
    assert {(r.method, r.other, r.network) for r in rows} == {("satm", o, n) for o in methods[1:3] for n in names}
    assert {r.condition for r in rows} == set(CONDITIONS) - {"white-box"} and len(rows) == 2 * 2 * 4
    for row in rows:
        sources = {"clean": "", "partner old": "undefended/{}", "partner new": "{}/{}", "hold-out": "undefended/h"}
        partner = {"a": "b", "b": "a"}[row.network]
        pairs = []
        for method in ("satm", row.other):
            source = sources[row.condition]
            source = source.format(method, partner) if source.count("{") == 2 else source.format(partner)
            pairs.append(found.right(f"{method}/{row.network}", source))
        assert row.difference == pytest.approx(pairs[0].mean() - pairs[1].mean())
        assert (row.difference, row.low, row.high) == metrics.paired_difference(*pairs)
        assert row.n == 400


@pytest.mark.parametrize("before, after", [(0.5, 0.6), (0.6, 0.5), (0.5, 0.5)])
def test_what_rounding_changes_is_after_minus_before(before, after):
    kept, given = (answers_of({("a", "b"): rate}) for rate in (after, before))
    found = Crossing(AttackSetting("fgsm", 0.1), np.zeros(400, int), kept, given, {"b": np.full(400, 0.1)}, {})
    assert found.rounding(("a", "b"))[0] == pytest.approx(after - before)
    (row,) = found.rows({("a", "b"): dict(method="m", network="a", condition="c")}, 2)
    assert (row.rate, row.rate_before_rounding) == (pytest.approx(after), pytest.approx(before))


def test_a_rate_equal_to_the_clean_one_is_no_leak():
    answers = answers_of({("a", ""): 0.5, ("a", "b"): 0.5, ("a", "c"): 0.5025, ("a", "d"): 0.4975})
    found = Crossing(AttackSetting("fgsm", 0.1), np.zeros(400, int), answers, answers, {}, {})
    assert found.above_clean() == [("a", "c")]


# Pixels and curves


def test_pixels_are_rounded_to_the_nearest_byte():
    levels = np.arange(256, dtype=np.float32)
    for away in (-0.45, -0.1, 0.0, 0.1, 0.45):
        near = (levels + np.float32(away)).clip(0, 255) / 255
        assert np.array_equal(crossing.bytes_of(near), levels), away


def test_exported_pixels_are_the_measured_ones(networks, batches):
    found = crossing.cross({"satm/x": networks["satm/x"]}, batches, AttackSetting("fgsm", 0.013), seed=0, limit=8,
                           keep=True)  # fmt: skip
    ((x, y),) = batches.in_order(8)
    x_adv = attacks.fgsm(networks["satm/x"], x, y, epsilon=0.013)
    assert np.array_equal(found.images["satm/x"], np.floor(255 * attacks.rounded(x_adv, x, epsilon=0.013) + 0.5))
    assert np.array_equal(found.images[""], np.floor(255 * x + 0.5))


def test_the_line_of_a_curve_is_always_answering_one_class_of_its_own_images(run, batches, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(session, "SUBSET", 12)
    monkeypatch.setattr(session, "figure_epsilons", lambda path, rows, chance: drawn.append((chance, rows)))
    options = ["--attack", "fgsm", "--images", "40", "--no-masking", "--out", tmp_path / "out"]
    assert call(f"{run}:satm/x", *options)[0] == 0
    y = np.concatenate([y for _, y in batches.in_order(12)])
    ((chance, rows),) = drawn
    assert chance == np.bincount(y).max() / 12 and {row["n"] for row in rows} == {12}
    y = np.concatenate([y for _, y in batches.in_order(40)])
    assert np.bincount(y).max() / len(y) != chance


def test_a_curve_shows_the_strongest_of_the_others(networks, batches):
    rows = curves.curve({name: networks[name] for name in THREE}, batches, AttackSetting("fgsm", 0.1), [0.02], seed=0,
                        limit=16)  # fmt: skip
    found = crossing.cross({name: networks[name] for name in THREE}, batches, AttackSetting("fgsm", 0.02), seed=0,
                           limit=16)  # fmt: skip
    for row in rows[3:]:
        own = row["target"]
        others = [found.right(own, source).mean() for source in THREE if source != own]
        assert row["white_box"] == found.right(own, own).mean() and row["transferred"] == min(others)
        assert (row["transferred_low"], row["transferred_high"]) == metrics.interval(min(others), 16)
    assert len({row["transferred"] for row in rows[3:]}) > 1


def test_the_table_of_matrices_says_who_attacks_whom():
    answers = answers_of({(t, s): 0.5 for t in ("m/a", "m/b") for s in ("", "m/a", "m/b")})
    found = Crossing(AttackSetting("fgsm", 0.1), np.zeros(400, int), answers, answers, {}, {})
    named = matrix.names(found, [matrix.Entry(None, n, "m", None, f"m/{n}") for n in "ab"])
    conditions = {pair: columns["condition"] for pair, columns in named.items()}
    assert conditions == {(t, s): "white-box" if t == s else "other" if s else "clean" for t, s in answers}
    assert all(columns["network"] == target[2:] for (target, _), columns in named.items())


# Figures


@pytest.fixture
def shown(tmp_path, monkeypatch):
    """The figures of a run before they are saved, and its results."""
    kept = {}
    monkeypatch.setattr(figures, "_save", lambda figure, path: kept.update({path.stem: figure}) or path)
    results = Results.read(make_run(tmp_path / "run"))
    figures.figure_curves(results), figures.figure_results(results)
    return kept, results


@pytest.mark.parametrize("figure, images", [("figure3", "train"), ("figure4", "validation")])
def test_figures_3_and_4_show_the_images_that_they_name(shown, figure, images):
    kept, results = shown
    for axes, network in zip(kept[figure].axes, results.networks):
        assert axes.get_title() == f"{network}, {'training' if images == 'train' else images} images"
        lines = {line.get_label(): line for line in axes.lines}
        for kind in ("clean", "adversarial"):
            table = results.epochs["satm"]
            line = lines[f"SATM: {kind} images"]
            assert np.allclose(line.get_ydata(), 100 * table[f"{network}.{images}_{kind}"])
            assert np.allclose(line.get_xdata(), table["epoch"])
        before = lines["clean phase: clean images"].get_xdata()
        assert before[-1] == 0 and before[0] < 0  # it ends where the defences start


def test_losses_are_moving_means_that_know_nothing_of_later_steps(shown):
    kept, results = shown
    by_phase, _, terms, _ = kept["losses"].axes
    for axes, key, name in ((by_phase, "loss", "SATM"), (terms, "domain", "domain term")):
        (line,) = (line for line in axes.lines if line.get_label() == name)
        values = results.log["satm"][f"vgg<16>.{key}"]
        window = len(values) // 25
        means = [values[max(0, k - window + 1) : k + 1].mean() for k in range(len(values))]
        assert np.allclose(line.get_ydata(), means) and line.get_xdata()[0] == 1
    (clean,) = (line for line in by_phase.lines if line.get_label() == "clean")
    assert clean.get_xdata()[-1] == 0


def test_an_error_bar_goes_from_the_lower_to_the_upper_end(tmp_path, monkeypatch):
    """Intervals that are not symmetric."""
    kept = []
    monkeypatch.setattr(figures, "_save", lambda figure, path: kept.append(figure))
    rows = [Row(m, "a", c, "", 10, 0.5 + 0.02 * k, 0.5 + 0.01 * k, 0.5 + 0.04 * k, 0.9, 0.8, 1.0)
            for k, (m, c) in enumerate(((m, c) for m in ("undefended", "satm") for c in CONDITIONS), 1)]  # fmt: skip
    figures.figure_results(Results({}, rows))
    (axes,) = kept[0].axes
    found = {}
    for bars in axes.containers:
        if hasattr(bars, "has_yerr"):
            for (x, low), (_, high) in bars.lines[2][0].get_segments():
                found[round(x, 1)] = (low / 100, high / 100)
    expected = {round(x + (k - 0.5) * 0.4, 1): (row.rate_low, row.rate_high)
                for k, m in enumerate(("undefended", "satm"))
                for x, row in enumerate(r for r in rows if r.method == m)}  # fmt: skip
    assert found.keys() == expected.keys()
    assert all(found[x] == pytest.approx(expected[x]) for x in found)
    heights = {round(bar.get_x() + bar.get_width() / 2, 1): bar.get_height() / 100 for bar in axes.patches}
    middles = [row.rate for m in ("undefended", "satm") for row in rows if row.method == m]
    assert heights == pytest.approx(dict(zip(expected, middles)))


def test_the_matrix_on_the_screen_has_rates_intervals_and_one_off(monkeypatch):
    """Answers 0, 1 and 3 where 0 is right: the rate of one, the one-off rate of two of them."""
    counts = {("a", ""): (80, 10), ("b", ""): (60, 40), ("a", "a"): (10, 20), ("b", "a"): (50, 5)}
    answers = {pair: np.repeat([0, 1, 3], [n, m, 100 - n - m]) for pair, (n, m) in counts.items()}
    sizes = {"a": np.linspace(0.01, 0.03, 100)}
    found = Crossing(AttackSetting("fgsm", 0.1), np.zeros(100, int), answers, answers, sizes, {})
    head, _, *lines = (line.split() for line in matrix.matrix_text(found, 4).splitlines())
    ends = {pair: "{:.0f}-{:.0f}".format(*(100 * e for e in metrics.interval(n / 100, 100)))
            for pair, (n, _) in counts.items()}  # fmt: skip
    assert lines[:4] == [["1", "a", "80.0", "10.0*"], [ends["a", ""], ends["a", "a"]],
                         ["2", "b", "60.0", "50.0"], [ends["b", ""], ends["b", "a"]]]  # fmt: skip
    assert lines[4][-1] == f"{256 * 0.02:.1f}"
    assert lines[6:] == [["1", "a", "90.0", "30.0"], ["2", "b", "100.0", "55.0"]]
    (row,) = found.rows({("b", "a"): dict(method="m", network="b", condition="c")}, 4)
    assert (row.perturbation, row.largest_perturbation) == (pytest.approx(0.02), pytest.approx(0.03))


def test_wrong_answers_of_figure_1_are_red(tmp_path, monkeypatch):
    kept = []
    monkeypatch.setattr(figures, "_save", lambda figure, path: kept.append(figure))
    pairs = make_pairs()[:2]
    pairs[1] = pairs[1] | {"predicted_clean": 5, "predicted_adversarial": 1}
    figures.figure_pairs(tmp_path / "x.png", pairs)
    titles = [(axes.get_title(), axes.title.get_color() != figures.INK) for axes in kept[0].axes]
    assert titles == [("adversarial: class 7", True), ("clean: class 0", False), ("difference × 2", False),
                      ("adversarial: class 1", False), ("clean: class 5", True), ("difference × 4", False)]  # fmt: skip


def test_a_curve_has_its_interval_and_its_chance(tmp_path, monkeypatch):
    kept = []
    monkeypatch.setattr(figures, "_save", lambda figure, path: kept.append(figure))
    rows = [dict(attack="fgsm", epsilon=e, target="satm/a", n=9, white_box=0.5 - e / 4, white_box_low=0.4 - e / 4,
                 white_box_high=0.8 - e / 4, transferred=0.7, transferred_low=0.6, transferred_high=0.9)
            for e in (0.0, 0.5, 1.0)]  # fmt: skip
    figures.figure_epsilons(tmp_path / "x.png", rows, 0.3)
    (axes,) = kept[0].axes
    lines = {line.get_label(): line.get_ydata() for line in axes.lines}
    assert np.allclose(lines["SATM: own examples"], [50, 37.5, 25])
    assert np.allclose(lines["SATM: strongest transferred"], 70) and np.allclose(lines["always one class"], 30)
    (band,) = (c.get_paths()[0].vertices for c in axes.collections)
    assert (band[:, 1].min(), band[:, 1].max()) == (pytest.approx(15), pytest.approx(80))


# The paper's tables beside this run's


@pytest.fixture(scope="module")
def unlike():
    """Results in which no two rates are equal."""
    rows, rate = [], 0.1
    for method in METHODS:
        for network in ("a", "b"):
            for condition in CONDITIONS:
                source = "" if condition == "clean" else "undefended/h"
                rows.append(Row(method, network, condition, source, 100, rate, 0, 1, rate + 0.005, 0, 1))
                rate += 0.0071
    return Results({"holdout": "h", "networks": ["a", "b"], "epsilon": 0.0625}, rows)


def test_every_cell_of_our_tables_is_the_quantity_in_its_header(unlike):
    def cell(network, method, condition, field="rate"):
        (row,) = (r for r in unlike.rows if (r.network, r.method, r.condition) == (network, method, condition))
        return f"{100 * getattr(row, field):.2f}"

    def change(n, before, after, field):
        return f"{cell(n, 'undefended', before, field)} → {cell(n, 'satm', after, field)}"

    for n in ("a", "b"):
        assert page._ours("Table 1", unlike, n) == [
            n, cell(n, "undefended", "white-box"), cell(n, "undefended", "clean")]  # fmt: skip
        assert page._ours("Table 2", unlike, n) == [
            n, change(n, "white-box", "white-box", "rate"), change(n, "white-box", "white-box", "one_off")]  # fmt: skip
        assert page._ours("Table 4", unlike, n) == [
            n, change(n, "partner old", "partner new", "rate"), change(n, "partner old", "partner new", "one_off"),
            cell(n, "satm", "clean")]  # fmt: skip
        assert page._ours("Table 5", unlike, n) == [
            n, "h, ε 16/256", *(f"{cell(n, m, 'hold-out')} / {cell(n, m, 'hold-out', 'one_off')}"
                                for m in ("undefended", "control", "ensemble", "satm"))]  # fmt: skip
        cells = page._ours("Table 4", unlike, n) + page._ours("Table 5", unlike, n)
        assert len(set(cells)) == len(cells) - 1  # the name of the network stands in both


def test_the_page_has_a_line_for_each_method_in_the_order_of_the_conditions(unlike):
    text = page._results(unlike)
    for network, block in readings.blocks(unlike):
        for method, cells in block:
            wanted = [
                f"{100 * c.rate:.1f} [0.0, 100]<br><small>{100 * c.one_off:.1f} [0.0, 100]</small>" for c in cells
            ]
            line = "".join(f"<td>{text}</td>" for text in (method, *wanted))
            assert line in text, (network, method)
    heads = re.search("<thead><tr>(.*?)</tr>", text).group(1)
    assert re.findall("<th>(.*?)</th>", heads) == ["method", *CONDITIONS]


def test_a_frame_marks_what_one_off_accepts():
    text = page._confusion("satm", "a", list("wxyz"), np.arange(16).reshape(4, 4).tolist())
    lines = re.findall(r"<tr><th>\w</th>(.*?)</tr>", text)
    for k, line in enumerate(lines):
        cells = re.findall(r"<td( class=band)? style=[^>]*>(\d+)</td>", line)
        assert [int(count) for _, count in cells] == [4 * k + j for j in range(4)]
        assert [bool(band) for band, _ in cells] == [abs(j - k) <= 1 for j in range(4)]
