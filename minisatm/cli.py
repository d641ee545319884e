"""What all commands share: the parser, and the words of options."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NoReturn

from .units import fraction


def words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def numbers(text: str) -> tuple[float, ...]:
    return tuple(fraction(word) for word in words(text))


def boolean(text: str) -> bool:
    if text not in ("on", "off"):
        raise argparse.ArgumentTypeError(f"{text!r}: choose on or off")
    return text == "on"


def folder(text: str) -> Path:
    if not text.strip():
        raise argparse.ArgumentTypeError("an empty name; name a folder")
    return Path(text)


class Parser(argparse.ArgumentParser):
    """Says what is wrong with an option in one sentence, without the whole usage before it."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}; see --help.\n")
