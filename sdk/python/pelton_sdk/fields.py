"""What a plugin reads: from the columns of a batch to one object per record.

In: a batch as the host delivers it. Out: for each row, the object that the author declared. Each column is taken apart at
once, never cell by cell where that can be helped. Never looks at what was not subscribed.
"""

from __future__ import annotations

import sys
import typing
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

from . import _cells, _parts
from ._cells import Bad, Decode
from ._parts import (
    Cells,
    Header,
    Headers,
    Key,
    Offset,
    Partition,
    Subscriber,
    Timestamp,
    Topic,
    Value,
    Way,
)  # fmt: skip
from .declaration import (
    MISSING,
    DeclarationError,
    Hint,
    Json,
    Name,
    Path,
    Symbol,
    at,
    hints_of,
    refuse,
    row_class,
    shown,
)  # fmt: skip
from .shape import reader

__all__ = [
    "Header", "Headers", "Json", "Key", "Name", "NullOnMismatch", "Offset", "Partition", "Path", "Record", "Symbol",
    "Timestamp", "Topic", "Value", "fields",
]  # fmt: skip

T = TypeVar("T")

if typing.TYPE_CHECKING:
    from typing import dataclass_transform
else:

    def dataclass_transform(**_: Any) -> Callable[[Any], Any]:
        return lambda function: function


class NullOnMismatch:
    """Marks a field that reads as None where the value is of another type: `Annotated[int | None, NullOnMismatch]`."""


class Record(NamedTuple):
    """A whole record. Where single parts are enough, name them in a class with `fields` (`Annotated[str, Key]`, …), and only
    they cross."""

    key: bytes | None
    """The key; None where it is null."""
    value: bytes | None
    """The value; None for a tombstone."""
    headers: Headers
    timestamp_ms: int | None
    """Milliseconds since 1970-01-01T00:00:00Z, where the record has a timestamp."""
    offset: int
    topic: str
    partition: int

    def text(self) -> str:
        """The value as text; the record is rejected where it is null or not UTF-8."""
        return _parts.required(_parts.as_text(self.value, "value"), "value")

    def key_text(self) -> str:
        """The key as text; the record is rejected where it is null or not UTF-8."""
        return _parts.required(_parts.as_text(self.key, "key"), "key")

    def json(self, type: Any = Any) -> Any:
        """The value, parsed as JSON of this type; the record is rejected where it does not fit."""
        return _cells.parsed(self.text(), reader(type, strict=False), "value")


@dataclass_transform(kw_only_default=True, frozen_default=True)
def fields(cls: type[T]) -> type[T]:
    """Declares what a plugin reads. Objects do not change.

    @fields
    class Event:
        order_id: str                                            # rejected where it is missing
        country: Annotated[str, Path("customer.country"), Symbol]    # nested; few distinct values
        coupon: str | None                                       # may be missing
        items: Annotated[list[Item], Json]                       # any JSON
        trace: Annotated[str | None, Header("trace-id")]         # a part of the record
    """
    hints = hints_of(cls, None, sys._getframe(1))
    problems, ways = [], []
    for hint in hints:
        try:
            if hint.default is not MISSING:
                raise DeclarationError(f"what is read has no default; `{hint.name}: … | None` may be missing")
            ways.append(_way(hint))
        except DeclarationError as error:
            problems.append(at(cls, hint.name, str(error)))
    refuse(problems)
    made = row_class(cls, hints)
    made.__pelton_fields__ = ways  # type: ignore[attr-defined]
    return made


class View:
    """What a parameter of `apply` reads: a class with `fields`, or `Record`."""

    def __init__(self, cls: Any, subscriber: Subscriber) -> None:
        ways: list[Way] = _parts.RECORD if cls is Record else cls.__pelton_fields__
        self._make = cls._make
        self._cells: list[Cells] = [way(subscriber) for way in ways]

    def open(self, batch: Any, bad: Bad) -> Iterator[Any]:
        """One object a row. What stands at a row that is bad means nothing."""
        if not self._cells:
            return iter([self._make(())] * batch.count)
        return map(self._make, zip(*[cells(batch, bad) for cells in self._cells]))


def _way(hint: Hint) -> Way:
    if hint.type is Headers:
        return _parts.all_headers
    parts = [marker for marker in hint.markers if _kind(marker) in _parts.PARTS]
    if not parts:
        return _typed(hint)
    if len(parts) > 1:
        raise DeclarationError("it can be only one part of the record")
    if len(hint.markers) > 1:
        raise DeclarationError("a part of the record (Key, Value, Header, …) takes no other marker")
    marker = parts[0]
    part = _kind(marker)
    types, made = _parts.PARTS[part]
    if hint.type not in types:
        wanted = " or ".join(shown(one) for one in types)
        raise DeclarationError(f"{part.__name__} is read as {wanted}, not {shown(hint.type)}")
    return made(marker, hint)


def _kind(marker: Any) -> Any:
    return marker if isinstance(marker, type) else type(marker)


def _typed(hint: Hint) -> Way:
    known = (Path, Name, Symbol, Json, NullOnMismatch)
    for marker in hint.markers:
        if _kind(marker) not in known:
            raise DeclarationError(
                f"{shown(marker)} says nothing about a field; known are Path, Name, Symbol, Json, NullOnMismatch, and for "
                "parts of the record Key, Value, Header, Offset, Timestamp, Topic, Partition"
            )
    lenient = bool(hint.marked(NullOnMismatch))
    if lenient and not hint.optional:
        raise DeclarationError(f"NullOnMismatch needs a place for the null: write `{shown(hint.type)} | None`")
    column, decode = _decoder(hint, lenient)
    path = hint.path()

    def way(subscriber: Subscriber) -> Cells:
        index = len(subscriber.value_fields)
        subscriber.value_fields.append((path, column, hint.optional, lenient))

        def cells(batch: Any, bad: Bad) -> Sequence[Any]:
            packed = batch.value_fields[index]
            nulls = _cells.nulls(packed.validity, batch.count) if packed.validity else ()
            found = decode(packed.values, packed.data, batch.count, nulls, bad)
            if nulls:
                found = list(found)
                for row in nulls:
                    found[row] = None
            return found

        return cells

    return way


def _decoder(hint: Hint, lenient: bool) -> tuple[str, Decode]:
    symbol, any_json = hint.marked(Symbol), hint.marked(Json)
    if symbol and any_json:
        raise DeclarationError("a field is either Symbol or Json, not both")
    if any_json:
        return "json", _cells.texts if hint.type is str else _cells.jsons(hint, lenient)
    if symbol:
        if hint.type is not str:
            raise DeclarationError(f"Symbol goes with text: write Annotated[str, Symbol], not {shown(hint.type)}")
        return "symbol", _cells.symbols
    if hint.type not in _cells.TYPES:
        raise DeclarationError(
            f"a plugin cannot read a field as {shown(hint.type)}: fields are str, int, float, bool or bytes, each also "
            f"`| None`; Annotated[{shown(hint.type)}, Json] reads any JSON"
        )
    return _cells.TYPES[hint.type]
