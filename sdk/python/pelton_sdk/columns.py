"""What a plugin sets: from one object per row to the columns of the output.

In: rows, in output order. Out: for each attribute one packed column with exactly one cell a row, as `set-column` in
wit/types.wit asks. A column in which every row sets the value carries no states.
"""

from __future__ import annotations

import enum
import json
import struct
import sys
import typing
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any, TypeVar

from .declaration import DeclarationError, Hint, Json, Path, Symbol, at, hints_of, refuse, row_class, shown, where

if typing.TYPE_CHECKING:
    from typing import dataclass_transform
else:

    def dataclass_transform(**_: Any) -> Callable[[Any], Any]:
        return lambda function: function


T = TypeVar("T")
R = TypeVar("R")

# state, values, data
Packed = tuple[bytes, bytes, bytes]


class Set(enum.Enum):
    """What to do with a field of a row in the place of a value. An attribute of type `T | Set` takes them."""

    LEAVE = 0
    """Leave it as it is. In a table the cell stays unset. For an attribute of type `T | None`, None says the same."""
    NULL = 2
    """Make it null. In a table the cell is deleted."""
    REMOVE = 3
    """Take it out of the value. In a table the cell is deleted."""

    @staticmethod
    def or_null(value: T | None) -> T | Set:
        """The value, or null where there is none."""
        return Set.NULL if value is None else value

    @staticmethod
    def or_leave(value: T | None) -> T | Set:
        """The value, or leave the field where there is none."""
        return Set.LEAVE if value is None else value

    @staticmethod
    def or_remove(value: T | None) -> T | Set:
        """The value, or remove the field where there is none."""
        return Set.REMOVE if value is None else value


_VALUE = 1


class Nothing:
    """What stands in every column of a row that sets none."""


NOTHING = Nothing()


@dataclass_transform(kw_only_default=True, frozen_default=True)
def columns(cls: type[T]) -> type[T]:
    """Declares what a plugin sets. Objects are made of keywords, and do not change: see `replace`.

    @columns
    class OrderRow:
        order_id: str
        status: Annotated[str, Symbol]                 # few distinct values
        total_eur: float | None = None                 # None leaves the field, or the table's cell, as it is
        note: str | Set = Set.LEAVE                    # Set.LEAVE, Set.NULL, Set.REMOVE, or a value
        tags: Annotated[list[str], Json, Path("meta.tags")]
    """
    hints = hints_of(cls, Set, sys._getframe(1))
    problems, outputs = [], []
    for hint in hints:
        try:
            outputs.append(Column(hint))
        except DeclarationError as error:
            problems.append(at(cls, hint.name, str(error)))
    for number, column in enumerate(outputs):
        for other in outputs[:number]:
            shorter = min(len(column.path), len(other.path))
            if column.path[:shorter] == other.path[:shorter]:
                both = f"`{'.'.join(other.path)}` and `{'.'.join(column.path)}`"
                problems.append(at(cls, column.hint.name, f"{both} lie within each other: set one of them"))
    refuse(problems)
    made = row_class(cls, hints)
    made.__pelton_columns__ = outputs  # type: ignore[attr-defined]
    return made


def replace(row: R, **changes: Any) -> R:
    """A row like this one with some attributes changed."""
    return row._replace(**changes)  # type: ignore[attr-defined]


def columns_of(cls: Any) -> list[Column]:
    """The columns of a class that was declared with `columns`."""
    found = getattr(cls, "__pelton_columns__", None)
    if found is None:
        raise DeclarationError(f"{where(cls)}: write @columns above class {cls.__name__}, so that it can be set")
    return found


class Column:
    """One attribute: where its value goes, and how its cells are packed."""

    def __init__(self, hint: Hint) -> None:
        self.hint = hint
        self.path = hint.path()
        for marker in hint.markers:
            if not (marker in (Symbol, Json) or isinstance(marker, (Path, Symbol, Json))):
                raise DeclarationError(
                    f"{shown(marker)} says nothing about a column; known are Path, Name, Symbol, Json"
                )
        self.type, self._fits, self._pack = _way(hint)
        self._blank = _NO_JSON if self._pack is _jsons else _BLANK_CELL[self.type]

    def pack(self, cells: Sequence[Any]) -> Packed | None:
        """The packed column; None where a cell does not fit."""
        kinds = set(map(type, cells))
        state = b""
        if kinds & _BLANKS:
            if not self._blanks_fit(cells, kinds):
                return None
            blank = self._blank
            if Set in kinds or Nothing in kinds:
                state = bytes([_STATES.get(id(cell), _VALUE) for cell in cells])
                cells = [cell if one == _VALUE else blank for cell, one in zip(cells, state)]
            else:
                state = bytes([cell is not None for cell in cells])
                cells = [blank if cell is None else cell for cell in cells]
            kinds = set(map(type, cells))
        if not kinds <= self._fits:
            return None
        try:
            return (state, *self._pack(cells))
        except (struct.error, ValueError, TypeError, OverflowError, RecursionError):
            return None

    def misfit(self, cell: Any) -> str | None:
        """Why a cell does not fit; None where it does."""
        if self.pack([cell]) is not None:
            return None
        wanted = shown(self.hint.type) + " | None" * self.hint.optional + " | Set" * self.hint.settable
        given = repr(cell)
        return f"{self.hint.name}: {wanted} is wanted, {given if len(given) < 100 else given[:100] + '…'} was given"

    def _blanks_fit(self, cells: Sequence[Any], kinds: set[type]) -> bool:
        may_be_none = self.hint.optional or type(None) not in kinds
        return may_be_none and (self.hint.settable or Set not in kinds)


_BLANKS = {type(None), Set, Nothing}


# By identity, as each of them is the only one of its kind.
_STATES = {id(None): 0, id(NOTHING): 0, **{id(one): one.value for one in Set}}


def _way(hint: Hint) -> tuple[str, Any, Callable[[Sequence[Any]], tuple[bytes, bytes]]]:
    if hint.marked(Symbol) and hint.marked(Json):
        raise DeclarationError("a column is either Symbol or Json, not both")
    if hint.marked(Json):
        return ("json", {str}, _texts) if hint.type is str else ("json", _Anything(), _jsons)
    if hint.marked(Symbol):
        if hint.type is not str:
            raise DeclarationError(f"Symbol goes with text: write Annotated[str, Symbol], not {shown(hint.type)}")
        return "symbol", {str}, _symbols
    if hint.type not in _WAYS:
        raise DeclarationError(
            f"a plugin cannot set a field from {shown(hint.type)}: columns are str, int, float, bool or bytes, each also "
            f"`| None` or `| Set`; Annotated[{shown(hint.type)}, Json] sets it as JSON"
        )
    return _WAYS[hint.type]


class _Anything(set):  # type: ignore[type-arg]
    """The set of all types."""

    def __ge__(self, other: object) -> bool:
        return True


def _booleans(cells: Sequence[Any]) -> tuple[bytes, bytes]:
    return bytes(cells), b""


def _integers(cells: Sequence[Any]) -> tuple[bytes, bytes]:
    return struct.pack(f"<{len(cells)}q", *cells), b""


def _floats(cells: Sequence[Any]) -> tuple[bytes, bytes]:
    return struct.pack(f"<{len(cells)}d", *cells), b""


def _blobs(cells: Sequence[Any]) -> tuple[bytes, bytes]:
    return struct.pack(f"<{len(cells) + 1}I", 0, *accumulate(map(len, cells))), b"".join(cells)


def _texts(cells: Sequence[Any]) -> tuple[bytes, bytes]:
    text = "".join(cells)
    if text.isascii():
        return struct.pack(f"<{len(cells) + 1}I", 0, *accumulate(map(len, cells))), text.encode()
    return _blobs([cell.encode() for cell in cells])


def _jsons(cells: Sequence[Any]) -> tuple[bytes, bytes]:
    write = _JSON.encode
    return _texts(["" if cell is _NO_JSON else write(cell) for cell in cells])


_JSON = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False)
# A cell of a row that sets no value.
_NO_JSON: Any = object()


def _symbols(cells: Sequence[Any]) -> tuple[bytes, bytes]:
    index: dict[str, int] = {}
    indexes = [index.setdefault(cell, len(index)) for cell in cells]
    offsets, entries = _texts(list(index))
    return struct.pack(f"<{len(cells)}I", *indexes), struct.pack("<I", len(index)) + offsets + entries


_WAYS: dict[Any, Any] = {
    bool: ("boolean", {bool}, _booleans),
    int: ("s64", {int}, _integers),
    float: ("f64", {float, int}, _floats),
    str: ("text", {str}, _texts),
    bytes: ("bytes", {bytes}, _blobs),
}
_BLANK_CELL: dict[str, Any] = {
    "boolean": False,
    "s64": 0,
    "f64": 0.0,
    "text": "",
    "symbol": "",
    "bytes": b"",
    "json": "",
}
