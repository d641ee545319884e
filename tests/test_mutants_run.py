"""Faults planted in runs, evaluation, tables, figures and loops: the test that run_mutants.py names must see each.

Each fault is put into a copy of the package, and the test runs there in a process of its own, two at a time.
`python -m pytest -m slow -k mutant -v` lists them.
"""

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from run_mutants import MUTANTS

ROOT = Path(__file__).parent.parent
ROOMS = {"run": 35, "evaluation": 20, "results": 15, "metrics.py": 6, "satm.py": 8, "defences": 9}  # so many at least
pytestmark = pytest.mark.slow


def outcome_of(folder, tests, mutant=None):
    """Exit status and output of these tests with a copy of the package in `folder`, which may have a fault."""
    shutil.copytree(ROOT / "minisatm", folder / "minisatm", ignore=shutil.ignore_patterns("__pycache__"))
    if mutant is not None:
        file = folder / "minisatm" / mutant.file
        file.write_text(file.read_text().replace(mutant.before, mutant.after))
    argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *(str(ROOT / "tests" / t) for t in tests)]
    where = os.environ | {"PYTHONPATH": str(folder)}
    done = subprocess.run(argv, cwd=folder, env=where, capture_output=True, text=True, timeout=300)
    shutil.rmtree(folder / "minisatm")
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def outcomes(request, tmp_path_factory):
    """What becomes of each mutant that was chosen; all of them are at work from the start."""
    chosen = {item.callspec.params["mutant"] for item in request.session.items if "outcomes" in item.fixturenames}
    with ThreadPoolExecutor(2) as pool:
        yield {
            m: pool.submit(outcome_of, tmp_path_factory.mktemp("mutant"), [m.test], m) for m in MUTANTS if m in chosen
        }
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.name)
def test_mutant_of_a_run_is_caught(mutant, outcomes):
    count = (ROOT / "minisatm" / mutant.file).read_text().count(mutant.before)
    assert count == 1, "the text occurs once"
    status, said = outcomes[mutant].result()
    assert status == 1 and re.search(r"^\d+ failed", said.splitlines()[-1]), said[-2000:]
    # a slip in the edited text is no catch
    assert not re.search(r"^E +(NameError|SyntaxError|ImportError|UnboundLocalError)", said, flags=re.M), said[-2000:]


def test_the_unmutated_passes_what_catches_the_mutants(tmp_path):
    """The same tests, on a copy of the package as it is."""
    status, said = outcome_of(tmp_path, sorted({m.test for m in MUTANTS}))
    assert status == 0 and " passed" in said and "skipped" not in said, said[-2000:]


def test_there_are_enough_mutants_in_every_room():
    assert len({m.name for m in MUTANTS}) == len(MUTANTS) >= 45
    rooms = Counter(m.file.partition("/")[0] for m in MUTANTS)
    assert all(rooms[room] >= count for room, count in ROOMS.items()), rooms
