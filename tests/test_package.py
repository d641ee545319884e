"""The package as a whole: its style and types, what importing it costs, and the README's own examples."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize("arguments", [("ruff", "check", "."), ("ruff", "format", "--check", "."), ("mypy",)])
def test_style_and_types(arguments: tuple[str, ...]) -> None:
    if importlib.util.find_spec(arguments[0]) is None:
        pytest.skip(f"{arguments[0]} is not installed: pip install -e '.[test]'")
    done = python("-m", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr


def test_import_is_light() -> None:
    """Drawing, files, property tests and the GPU are imported when they are used, not before."""
    heavy = ("matplotlib", "h5py", "hypothesis", "cupy", "PIL", "tqdm")
    code = f"import sys, minisatm, minisatm.satm, minisatm.models; print([m for m in {heavy} if m in sys.modules])"
    assert python("-c", code).stdout.strip() == "[]"


def test_readme_examples_run(tmp_path: Path) -> None:
    """The Python in the README runs, one block after the other, as a reader would type it."""
    blocks = re.findall(r"(?:^    .*\n|^\n)+", (ROOT / "README.md").read_text(), flags=re.M)
    code = [textwrap.dedent(b) for b in blocks if re.search(r"^    (import|from|@op)", b, flags=re.M)]
    assert len(code) == 2
    script = tmp_path / "readme.py"
    script.write_text("import numpy as np\nfrom minisatm import op\n" + "\n".join(code) + "\nprint(x_adv.shape)\n")
    done = python(str(script))
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "(4, 48, 48, 3)"


def test_readme_holds_the_two_commands() -> None:
    commands = re.findall(r"^    (pip install -e .*?)\s*(?:#.*)?$", (ROOT / "README.md").read_text(), flags=re.M)
    assert commands == [
        "pip install -e . && python -m minisatm.train",
        "pip install -e '.[test]' && python -m pytest",
    ]
