"""What all commands share: the parser, and how the values of options are read."""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from .units import fraction


def whole(text: str) -> int:
    try:
        return int(text)
    except ValueError as problem:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from problem


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
        raise argparse.ArgumentTypeError(f"{text!r}: choose on or off")
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
    """A parser that says what is wrong with an option in one sentence, without the whole usage before it."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}; see --help.\n")
