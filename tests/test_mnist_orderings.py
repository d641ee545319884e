"""The benchmark of Tramer's orderings: its verdicts follow from the rates, and the script runs and goes on."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent / "benchmarks"
SCRIPT = BENCHMARKS / "mnist_orderings.py"


@pytest.fixture(scope="module")
def tables():
    spec = importlib.util.spec_from_file_location("mnist_tables", BENCHMARKS / "mnist_tables.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rates(tables, rate):
    """Made-up error rates: rate(structure, method, attack, source) for every row that a seed has."""
    attacked = [("", "")] + [(a, "own") for a in tables.OWN] + [(a, s) for a in tables.TRANSFERRED for s in "ABCD"]
    keys = [(k, m, a, s) for k, methods in tables.METHODS.items() for m in methods for a, s in attacked]
    return {key: rate(*key) for key in keys if key[1] != "clean" or key[3] != key[0]}


def as_tramer_found(k, method, attack, source):
    """Transferred beats own; R+FGSM beats FGSM, by more after adversarial training; ensemble beats standard."""
    if source == "own":
        gain = 0.02 if method == "clean" else 0.2
        return 0.05 + gain * (attack != "fgsm")
    return {"standard": 0.2, "ensemble": 0.06}.get(method, 0.5) if source else 0.01


def verdicts(tables, errors, n=5000):
    return {name: tables.verdict(comparisons, n) for name, comparisons in tables.orderings(errors).items()}


def test_all_hold_where_they_hold(tables):
    found = verdicts(tables, rates(tables, as_tramer_found))
    assert {v for (name, k), v in found.items() if name.startswith("(i)")} == {"holds 4/4 (4 clear)"}
    assert {v for (name, k), v in found.items() if name.startswith("(ii) own")} == {"holds 3/3 (3 clear)"}
    assert {v for (name, k), v in found.items() if name.startswith("(ii) by")} == {"holds 2/2 (2 clear)"}
    assert {v for (name, k), v in found.items() if name.startswith("(iii)")} == {"holds 8/8 (8 clear)"}
    assert {k for _, k in found} == {"A", "B"}


def test_none_holds_where_all_rates_are_equal_or_turned_round(tables):
    for rate in (lambda *key: 0.3, lambda *key: 1 - as_tramer_found(*key)):
        assert all(v.startswith("does not 0/") and v.endswith("(0 clear)")
                   for v in verdicts(tables, rates(tables, rate)).values())  # fmt: skip


def test_one_rate_moves_its_own_comparison_only(tables):
    errors = rates(tables, as_tramer_found)
    before = verdicts(tables, errors)
    for key, name, after in (
        (("A", "standard", "fgsm", "C"), ("(i)", "(iii)"), {"(i)": "partly 3/4 (3 clear)"}),
        (("B", "ensemble", "r_fgsm", "own"), ("(ii)",), {"(ii) own": "partly 2/3 (2 clear)"}),
        (("B", "ensemble", "r_fgsm", "D"), ("(iii)",), {"(iii)": "partly 7/8 (7 clear)"}),
    ):
        value = 0.5 if name == ("(iii)",) else 0.0
        found = verdicts(tables, {**errors, key: value})
        moved = {n: v for n, v in found.items() if v != before[n]}
        assert moved and all(k == key[0] and n.startswith(name) for n, k in moved)
        for start, text in after.items():
            assert [v for (n, _), v in moved.items() if n.startswith(start)] == [text]


def test_clear_needs_more_than_chance(tables):
    one = [([0.30], [0.29])]
    assert tables.verdict(one, 1000) == "holds 1/1 (0 clear)"
    assert tables.verdict(one, 100_000) == "holds 1/1 (1 clear)"
    assert tables.verdict([([0.0], [0.0])], 1000) == "does not 0/1 (0 clear)"
    four = [([0.3, 0.2], [0.2, 0.27])]  # 3 points, with the spread of four rates
    assert tables.verdict(four, 1000) == "holds 1/1 (0 clear)" and tables.verdict(four, 10_000) == "holds 1/1 (1 clear)"


def test_who_learned_from_whom(tables):
    assert tables.known("ensemble", "A") == "ACD" and tables.known("ensemble", "B") == "BCD"  # the hold-outs: B and A
    assert tables.known("satm", "A") == "B" and tables.known("satm", "B") == "A"
    assert tables.known("standard", "A") == tables.known("clean", "B") == ""


def test_the_table_shows_every_rate_and_its_mean(tables):
    low, high = rates(tables, lambda *key: 0.1), rates(tables, lambda *key: 0.2)
    lines = list(tables.table({0: low, 1: high}, 1000))
    assert len(lines) == len(low)
    assert all(re.search(r" 10\.0 \[8\.3, 12\.0\] +20\.0 \[17\.6, 22\.6\] +15\.0$", line) for line in lines), lines[0]
    assert sum("*" in line for line in lines) == 2 * (3 + 2 + 1) + 2 * (3 + 1)


@pytest.mark.slow
def test_the_script_runs_and_goes_on_from_what_is_there(tmp_path, data_dir):
    command = [sys.executable, str(SCRIPT), "--seeds", "100,101", "--width", "1/16", "--train-images", "640"]
    command += ["--epochs", "1,1", "--images", "200", "--out", str(tmp_path)]
    command += ["--data", str(data_dir / "data" / "mnist")]
    first, again = (subprocess.run(command, capture_output=True, text=True, env={**os.environ}) for _ in range(2))
    assert first.returncode == again.returncode == 0, first.stderr + again.stderr
    assert first.stdout == again.stdout
    assert first.stderr.count("] seed") == again.stderr.count(": was there") == 2 * (4 + 6 + 9)
    shown = re.findall(r"(?:holds|partly|does not) (\d)/(\d) \((\d) clear\)", first.stdout)
    assert len(shown) == 2 * 8 and all(int(clear) <= int(holds) <= int(of) for holds, of, clear in shown)

    next(tmp_path.glob("seed101/errors-satm-B.csv")).unlink()
    once_more = subprocess.run(command, capture_output=True, text=True)
    assert once_more.stdout == first.stdout and once_more.stderr.count(": was there") == 37
    fewer = subprocess.run([*command, "--methods", "ensemble,standard"], capture_output=True, text=True).stdout
    assert "satm" not in fewer and set(fewer.splitlines()) < set(first.stdout.splitlines())
    other = subprocess.run([*command, "--width", "1/8"], capture_output=True, text=True)
    assert other.returncode == 1 and "holds networks of other settings" in other.stderr
