"""What all commands share: the parser, and how the values of options are read."""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from .inputs import did_you_mean, unknown
from .units import fraction


def whole(text: str) -> int:
    try:
        return int(text)
    except ValueError as problem:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number, write it like 1000") from problem


def number(text: str) -> float:
    """A number or a fraction: "16/256" -> 0.0625."""
    try:
        return fraction(text)
    except ValueError as problem:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number, write it like 0.1 or 16/256") from problem


def words(text: str) -> tuple[str, ...]:
    """The words between commas, without empty ones."""
    return tuple(word.strip() for word in text.split(",") if word.strip())


def numbers(text: str) -> tuple[float, ...]:
    return tuple(number(word) for word in words(text))


def boolean(text: str) -> bool:
    if text not in ("on", "off"):
        raise argparse.ArgumentTypeError(f"{text!r} is neither on nor off")
    return text == "on"


def folder(text: str) -> Path:
    if not text.strip():
        raise argparse.ArgumentTypeError("the name is empty, name a folder")
    return Path(text)


# How a value of this type is read from the command line, and what stands for it in --help.
READERS: dict[Any, tuple[Callable[[str], Any], str]] = {
    str: (str, "NAME"), int: (whole, "N"), float: (number, "X"), bool: (boolean, "on|off"),
    tuple[str, ...]: (words, "A,B"), tuple[float, ...]: (numbers, "X,X"),
}  # fmt: skip


def print_any_name() -> None:
    """From now on, a name that the screen's encoding cannot show is printed with escapes and raises no error."""
    for screen in (sys.stdout, sys.stderr):
        if isinstance(screen, io.TextIOWrapper):
            screen.reconfigure(errors="backslashreplace")


class Parser(argparse.ArgumentParser):
    """A parser that says what is wrong with an option in one sentence, without the whole usage before it.

    An option is written in full. Of an option that is given twice the last value counts, and a line says so.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.register("type", int, whole)
        self.register("type", float, number)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        words = [str(word) for word in (sys.argv[1:] if args is None else args)]
        options = {option: action for action in self._actions for option in action.option_strings}
        last: dict[str, str] = {}  # option -> how it was last given
        for k, word in enumerate(words[: words.index("--")] if "--" in words else words):
            option, equals, _ = word.partition("=")
            if not word.startswith("--"):
                continue
            if option not in options:
                self.error(f"there is no option {option}{did_you_mean(option, options)}")
            given = word if equals else " ".join(words[k : k + 2])
            if option in last and options[option].nargs != 0:
                print(f"note      {option} is given more than once: {given} counts, not {last[option]}")
            last[option] = given
        parsed, left = super().parse_known_args(words, namespace)
        if left:
            self.error(f"{left[0]} is neither an option nor the value of one{did_you_mean(left[0], options)}")
        return parsed, left

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            what = action.dest.replace("_", " ")
            raise argparse.ArgumentError(action, unknown(what, value, action.choices).removesuffix("."))

    def error(self, message: str) -> NoReturn:
        message = message.replace("expected one argument", "give it a value (with = where the value begins with -)")
        self.exit(2, f"error: {message}; see --help.\n")
