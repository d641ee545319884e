"""What is declared of one setting; its default, its check, its option and its line in the docs come from there."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cache
from typing import Any, get_args, get_origin, get_type_hints

from .errors import InputError
from .inputs import check_choice, listed
from .units import epsilon_text

OURS = "our choice"  # the paper leaves the value open
PIXELS = "pixels of [0, 1]"
TYPES = {str: "a text", bool: "true or false", int: "a whole number", float: "a finite number", type(None): "null"}


@dataclass(frozen=True)
class When:
    """When a run reads a setting: a test of all the settings, and the words for it, which go after "with"."""

    words: str
    holds: Callable[[Any], bool]


@dataclass(frozen=True)
class Setting:
    """The declaration of one setting; the dataclass whose field it is knows its name and type.

    paper: the paper's value, None if it gives none. source: where the default comes from then, OURS or a reference.
    unset: what None, an empty text or an empty list means. of: the only methods that read it; all, if empty.
    when: what else a run needs to read it.
    """

    default: Any
    help: str
    group: str  # of options, in --help
    choices: Sequence[Any] = ()
    least: float = -math.inf
    most: float = math.inf
    unit: str = ""
    paper: Any = None
    source: str = ""
    unset: str = ""
    of: tuple[str, ...] = ()
    when: When | None = None
    metavar: str = ""
    name: str = ""
    type: Any = str

    @property
    def option(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def meaning(self) -> str:
        """The help text with its unit and what a run needs to read the setting."""
        methods = f"{listed(self.of, 'and')} only: " if self.of else ""
        only = f"; only with {self.when.words}" if self.when else ""
        return methods + self.help + f", in {self.unit}" * bool(self.unit) + only

    @property
    def origin(self) -> str:
        """Whose value it is, in words."""
        return self.source if self.paper is None else f"paper {self.text(self.paper)}"

    @property
    def range(self) -> str:
        """The values that are allowed, in words."""
        if self.choices:
            return ", ".join(map(str, self.choices))
        if self.least == -math.inf:
            return _words(self.type)
        return f"{self.least:g} or more" if self.most == math.inf else f"{self.least:g} to {self.most:g}"

    def text(self, value: Any) -> str:
        """A value as one writes it on the command line."""
        if value in (None, "", ()):
            return self.unset
        if isinstance(value, tuple):
            return ",".join(map(self.text, value))
        if isinstance(value, bool):
            return "on" if value else "off"
        if isinstance(value, float):
            return epsilon_text(value) if self.unit == PIXELS else f"{value:g}".replace("e-0", "e-")
        return str(value)

    def check_read(self, settings: Any) -> None:
        """Raise an InputError for a setting that a run with these settings does not read."""
        needed = []
        if self.of and settings.method not in self.of:
            needed.append(f"--method {listed(self.of, 'or')}")
        if self.when and not self.when.holds(settings):
            needed.append(self.when.words)
        if needed:
            given = f"{self.option} {self.text(getattr(settings, self.name))}"
            raise InputError(
                f"{given} has no effect: only a run with {' and '.join(needed)} reads it, so leave it out."
            )

    def check_type(self, value: Any) -> None:
        if not _fits(value, self.type):
            raise InputError(f"{self.option} must be {_words(self.type)}, not {value!r}.")

    def check_value(self, value: Any) -> None:
        """An InputError for a value, of the right type, that is none of the choices or outside of the limits."""
        if self.choices:
            check_choice(self.name.replace("_", " "), value, self.choices)
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, str) or number is None:
                continue
            if number < self.least:
                raise InputError(f"{self.option} {number:g} is too small: {self.least:g} at least.")
            if number > self.most:
                raise InputError(f"{self.option} {number:g} is too large: {self.most:g} at most.")


def setting(default: Any, help: str, group: str, **more: Any) -> Any:
    """A dataclass field that declares a setting; `more` are fields of Setting."""
    return field(default=default, metadata={"setting": Setting(default, help, group, **more)})


@cache
def declared(settings: type) -> dict[str, Setting]:
    """{name: declaration} of a dataclass whose fields are made by `setting`."""
    types = get_type_hints(settings)
    return {f.name: replace(f.metadata["setting"], name=f.name, type=types[f.name]) for f in fields(settings)}


def _fits(value: Any, kind: Any) -> bool:
    """Is the value of this type? config.json can bring anything: for a float a whole number will do, NaN will not."""
    if get_origin(kind) is tuple:
        return isinstance(value, tuple) and all(_fits(entry, get_args(kind)[0]) for entry in value)
    if kind is float:
        return type(value) in (int, float) and math.isfinite(value)
    return any(_fits(value, k) for k in get_args(kind)) if get_args(kind) else type(value) is kind


def _words(kind: Any) -> str:
    if get_origin(kind) is tuple:
        return f"a list of {TYPES[get_args(kind)[0]].removeprefix('a ')}s"
    return " or ".join(TYPES[k] for k in get_args(kind) or (kind,))
