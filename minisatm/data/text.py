"""Text files as other programs write them, and names that any terminal can show."""

from __future__ import annotations

import codecs
import unicodedata
from pathlib import Path

UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read_lines(path: Path) -> list[str]:
    """Return the lines of a text file in UTF-8, or in UTF-16 where it begins with that mark; a BOM is left out.

    The last line is empty if the file ends with a line break. Raises OSError or UnicodeDecodeError.
    """
    raw = path.read_bytes()
    text = raw.decode("utf-16" if raw.startswith(UTF16) else "utf-8-sig")
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def shown(text: object) -> str:
    """Return `text` with an escape like \\x1b in place of each character that a terminal must not get or cannot print.

    File names may hold bytes that are not UTF-8 and sequences that control the terminal.
    """
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(text))


def same_name(text: object) -> str:
    """Return the form in which names are compared: systems and editors write letters like ä in two ways."""
    return unicodedata.normalize("NFC", shown(text))
