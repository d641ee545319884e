"""The recipes of minisatm/README.md work as printed, and its table of lines is right."""

import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "minisatm" / "README.md").read_text()
RECIPES = dict(re.findall(r"^### (.+?)\n(.*?)(?=^##|\Z)", README, flags=re.M | re.S))
STEP = re.compile(r"^(?:\d+\. |   )(.+?:)\n\n((?:        .*\n|\n)+)", flags=re.M)


def steps(recipe):
    """[(what to do, the code)] in order."""
    return [(words, textwrap.dedent(code).strip("\n") + "\n") for words, code in STEP.findall(RECIPES[recipe])]


def insert(path, line, code, indent):
    """Add code below the one line of a file that is this one."""
    lines = path.read_text().splitlines()
    assert lines.count(line) == 1, f"{path} has the line {line!r} {lines.count(line)} times"
    place = lines.index(line) + 1
    path.write_text("\n".join([*lines[:place], textwrap.indent(code, indent), *lines[place:]]) + "\n")


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_works_as_printed(tmp_path, recipe):
    shutil.copytree(ROOT / "minisatm", tmp_path / "minisatm", ignore=shutil.ignore_patterns("__pycache__"))
    printed, compared = None, 0
    for words, code in steps(recipe):
        if file := re.match(r"Write `(.+?)`:", words):
            (tmp_path / file[1]).write_text(code)
        elif place := re.match(r"In `(.+?)`, below `(.+?)`, add", words):
            raw = re.search(re.escape(words) + r"\n\n((?:        .*\n|\n)+)", README)[1]
            indent = " " * (len(raw) - len(raw.lstrip(" ")) - 8)
            insert(tmp_path / place[1], place[2], code.rstrip("\n"), indent)
        elif words == "Run this Python:":
            environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
            done = subprocess.run(
                [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True
            )
            assert done.returncode == 0, done.stderr
            printed = done.stdout
        else:
            assert words == "It prints:", words
            assert printed == code
            compared += 1
    assert compared == 1


def test_there_are_recipes_for_an_op_an_attack_a_network_and_a_backend():
    assert list(RECIPES) == ["Add an op", "Add an attack", "Add a network", "Add a backend"]


def test_the_lines_of_the_reading_path_are_those_of_the_files():
    rows = re.findall(r"^\| \d \| `(.+?)` \| ([\d,]+) \| (\d+) \|", README, flags=re.M)
    counted = {}
    for place, _, _ in rows:
        path = ROOT / "minisatm" / place
        files = path.glob("*.py") if path.is_dir() else [path]
        counted[place] = sum(len(file.read_text().splitlines()) for file in files)
    assert {place: int(lines.replace(",", "")) for place, lines, _ in rows} == counted
    total = re.search(r"\*\*together\*\* \| \*\*([\d,]+)\*\* \| \*\*(\d+)\*\*", README)
    assert int(total[1].replace(",", "")) == sum(counted.values()) <= 1750
    assert int(total[2]) == sum(int(minutes) for *_, minutes in rows)
