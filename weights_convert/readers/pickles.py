"""Read pickles of plain values without Python's pickle.

Python's pickle calls any function that the file names, and can be made to allocate any memory. Here pickletools, which
only reads, lists the operations, and only those for dicts, lists, numbers and strings are carried out. The names that
a pickle may use are in a table, and each stands for a function of this project.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from typing import Any, BinaryIO


class Opaque:
    """A value without weights, such as an optimiser's counter. Whatever the file does to it is ignored."""


class Named:
    """A function or class that a pickle names; call is our function in place of it."""

    def __init__(self, call: Callable[..., Any]) -> None:
        self.call = call


LARGEST_KEY = 2**63  # a number as key is hashed each time, however long it is
VALUES = {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING",
          "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES",
          "BINBYTES8"}  # fmt: skip
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
NOTHING_TO_DO = {"PROTO", "FRAME"}
PUTS, GETS = {"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"}, {"GET", "BINGET", "LONG_BINGET"}


class Machine:
    """A pickle's stack, marks and memo. name(module, name) returns a GLOBAL, persistent(id) a BINPERSID.

    work(n) counts n steps, or raises an error: each operation is one, and each item of a value that it walks through,
    since the memo lets a few bytes name the same long list again and again.
    """

    def __init__(
        self, name: Callable[[str, str], Any], persistent: Callable[[Any], Any], work: Callable[[int], None]
    ) -> None:
        self.name, self.persistent, self.work = name, persistent, work

    def load(self, stream: BinaryIO) -> Any:
        """Return the value of one pickle and leave the stream after it; ValueError or IndexError if it is broken."""
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        argument: Any
        for code, argument, _ in pickletools.genops(stream):
            self.work(1)
            if code.name in VALUES:
                self.stack.append(argument)
            elif code.name in CONSTANTS:
                self.stack.append(CONSTANTS[code.name])
            elif code.name in PUTS:
                self.memo[len(self.memo) if code.name == "MEMOIZE" else argument] = self.stack[-1]
            elif code.name in GETS:
                self.stack.append(self.memo[argument])
            elif code.name == "STOP":
                return self.stack.pop()
            elif code.name not in NOTHING_TO_DO:
                step = getattr(self, "do_" + code.name, None)
                if step is None:
                    raise ValueError(f"the operation {code.name}, which weights do not need")
                step(argument)
        raise ValueError("a pickle without its end")

    def marked(self) -> list[Any]:
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def do_MARK(self, _: Any) -> None:
        self.marks.append(len(self.stack))

    def do_EMPTY_LIST(self, _: Any) -> None:
        self.stack.append([])

    def do_EMPTY_DICT(self, _: Any) -> None:
        self.stack.append({})

    def do_LIST(self, _: Any) -> None:
        self.stack.append(self.marked())

    def do_DICT(self, _: Any) -> None:
        self.stack.append(fill({}, self.marked()))

    def do_TUPLE(self, _: Any) -> None:
        self.stack.append(tuple(self.marked()))

    def do_TUPLE1(self, _: Any) -> None:
        self.stack[-1:] = [(self.stack[-1],)]

    def do_TUPLE2(self, _: Any) -> None:
        self.stack[-2:] = [(self.stack[-2], self.stack[-1])]

    def do_TUPLE3(self, _: Any) -> None:
        self.stack[-3:] = [(self.stack[-3], self.stack[-2], self.stack[-1])]

    def do_APPEND(self, _: Any) -> None:
        append(self.stack[-2], [self.stack.pop()])

    def do_APPENDS(self, _: Any) -> None:
        items = self.marked()
        append(self.stack[-1], items)

    def do_SETITEM(self, _: Any) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        fill(self.stack[-1], [key, value])

    def do_SETITEMS(self, _: Any) -> None:
        items = self.marked()
        fill(self.stack[-1], items)

    def do_GLOBAL(self, argument: str) -> None:
        self.stack.append(self.name(*argument.split(" ", 1)))

    def do_STACK_GLOBAL(self, _: Any) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if not isinstance(module, str) or not isinstance(name, str):
            raise ValueError("a name that is no text")
        self.work(len(module) + len(name))
        self.stack.append(self.name(module, name))

    def do_REDUCE(self, _: Any) -> None:
        arguments, named = self.stack.pop(), self.stack.pop()
        if isinstance(named, Named) and isinstance(arguments, tuple):
            self.work(sum(map(length, (arguments, *arguments))))
            self.stack.append(named.call(*arguments))
        else:
            raise ValueError("a call of something that is not a function")

    do_NEWOBJ = do_REDUCE

    def do_BUILD(self, _: Any) -> None:
        self.stack.pop()  # attributes, such as a state_dict's _metadata; they hold no weights

    def do_BINPERSID(self, _: Any) -> None:
        self.work(length(self.stack[-1]))
        self.stack.append(self.persistent(self.stack.pop()))


def length(value: Any) -> int:
    return len(value) if isinstance(value, list | tuple | dict | str | bytes) else 0


def append(target: Any, items: list[Any]) -> None:
    if isinstance(target, list):
        target.extend(items)
    elif not isinstance(target, Opaque):
        raise ValueError("items for something that is not a list")


def fill(target: Any, items: list[Any]) -> Any:
    """Put key, value, key, value ... into a dict. Only plain keys: to hash a tuple of tuples can take for ever."""
    if isinstance(target, Opaque):
        return target
    if not isinstance(target, dict) or len(items) % 2:
        raise ValueError("items for something that is not a dict")
    for key, value in zip(items[::2], items[1::2]):
        if isinstance(key, str | int | float | None):
            if isinstance(key, int) and abs(key) >= LARGEST_KEY:
                raise ValueError("a number of many digits as key")
            if key in target:
                raise ValueError(f"the name {key} twice")
            target[key] = value
    return target
