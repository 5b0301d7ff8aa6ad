"""Parts of the record beside its typed fields: key, raw value, headers, offset, timestamp, topic, partition."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from ._cells import Bad
from .declaration import MISSING, DeclarationError, Hint
from .step import NULL, Failure

T = TypeVar("T")


@dataclass
class Subscriber:
    """Collects what a plugin reads."""

    parts: set[str] = field(default_factory=set)
    headers: list[str] = field(default_factory=list)
    # Each: path, type, null where missing, null where of another type.
    value_fields: list[tuple[list[str], str, bool, bool]] = field(default_factory=list)


# Reads the cells of a batch.
Cells = Callable[[Any, Bad], Sequence[Any]]

# Subscribes an attribute, and gives what reads it.
Way = Callable[[Subscriber], Cells]


class Key:
    """Marks the record's key: `Annotated[bytes | None, Key]`, or as text."""


class Value:
    """Marks the record's raw value: `Annotated[bytes | None, Value]`, or as text."""


class Header:
    """Marks a header, the last of its name: `Annotated[str | None, Header("trace-id")]`, or as bytes."""

    def __init__(self, name: str) -> None:
        if not (isinstance(name, str) and name):
            raise DeclarationError("a header's name is a text that is not empty")
        self.name = name


class Offset:
    """Marks the record's offset: `Annotated[int, Offset]`."""


class Timestamp:
    """Marks the record's time, milliseconds since 1970-01-01T00:00:00Z: `Annotated[int | None, Timestamp]`."""


class Topic:
    """Marks the record's topic: `Annotated[str, Topic]`."""


class Partition:
    """Marks the record's partition: `Annotated[int, Partition]`."""


class Headers(Sequence[tuple[str, "bytes | None"]]):
    """The headers of a record, in order; a name may come several times, and a value may be None."""

    __slots__ = ("_pairs", "_packed")

    def __init__(self, packed: bytes = b"") -> None:
        self._packed = packed
        self._pairs: list[tuple[str, bytes | None]] | None = None

    def get(self, name: str) -> bytes | None:
        """The value of the last header of a name; None where there is none, or its value is null."""
        return next((value for found, value in reversed(self._all()) if found == name), None)

    def text(self, name: str) -> str | None:
        """As `get`, as text; None also where it is not UTF-8."""
        value = self.get(name)
        try:
            return None if value is None else value.decode()
        except UnicodeDecodeError:
            return None

    def _all(self) -> list[tuple[str, bytes | None]]:
        if self._pairs is None:
            packed, at, self._pairs = self._packed, 0, []
            while at < len(packed):
                name, at = take(packed, at)
                value, at = take(packed, at)
                self._pairs.append(((name or b"").decode(), value))
        return self._pairs

    def __getitem__(self, index: Any) -> Any:
        return self._all()[index]

    def __len__(self) -> int:
        return len(self._all())

    def __iter__(self) -> Iterator[tuple[str, bytes | None]]:
        return iter(self._all())

    def __repr__(self) -> str:
        return f"Headers({self._all()!r})"


def take(packed: bytes, at: int) -> tuple[bytes | None, int]:
    (length,) = struct.unpack_from("<I", packed, at)
    at += 4
    return (None, at) if length == NULL else (packed[at : at + length], at + length)


def _spans(column: Any, count: int) -> list[bytes | None]:
    table, data = struct.unpack(f"<{2 * count}I", column.spans), column.data
    return [None if length == NULL else data[start : start + length] for start, length in zip(table[::2], table[1::2])]


def as_text(value: bytes | None, name: str) -> str | None:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        raise Failure.reject("wrong_type", f"{name} is not UTF-8") from None


def required(value: T | None, name: str) -> T:
    if value is None:
        raise Failure.reject("missing_field", f"{name} is missing")
    return value


def _checked(cells: list[Any], hint: Hint, name: str, bad: Bad) -> list[Any]:
    """Cells of the wanted type, and of rows that are required."""
    for row, cell in enumerate(cells):
        try:
            if cell is not None and hint.type is str and not isinstance(cell, str):
                cells[row] = cell = as_text(cell, name)
            if not hint.optional:
                required(cell, name)
        except Failure as failure:
            bad.note(row, failure)
    return cells


def _bytes_part(part: str, attribute: str) -> Callable[[Any, Hint], Way]:
    def made(marker: Any, hint: Hint) -> Way:
        def way(subscriber: Subscriber) -> Cells:
            subscriber.parts.add(part)
            return lambda batch, bad: _checked(_spans(getattr(batch, attribute), batch.count), hint, part, bad)

        return way

    return made


def _header(marker: Header, hint: Hint) -> Way:
    if not isinstance(marker, Header):
        raise DeclarationError('a header has a name: write Header("trace-id")')

    def way(subscriber: Subscriber) -> Cells:
        if marker.name not in subscriber.headers:
            subscriber.headers.append(marker.name)
        index, name = subscriber.headers.index(marker.name), f"header `{marker.name}`"
        return lambda batch, bad: _checked(_spans(batch.headers[index], batch.count), hint, name, bad)

    return way


def all_headers(subscriber: Subscriber) -> Cells:
    subscriber.parts.add("all_headers")
    return lambda batch, bad: [Headers(packed or b"") for packed in _spans(batch.all_headers, batch.count)]


def _offset(marker: Any, hint: Hint) -> Way:
    def way(subscriber: Subscriber) -> Cells:
        subscriber.parts.add("offset")
        return lambda batch, bad: struct.unpack(f"<{batch.count}q", batch.offsets)

    return way


def _timestamp(marker: Any, hint: Hint) -> Way:
    def way(subscriber: Subscriber) -> Cells:
        subscriber.parts.add("timestamp")

        def cells(batch: Any, bad: Bad) -> Sequence[Any]:
            times = struct.unpack(f"<{batch.count}q", batch.timestamps)
            if min(times) >= 0:
                return times
            return _checked([None if time < 0 else time for time in times], hint, "timestamp", bad)

        return cells

    return way


def _topic(marker: Any, hint: Hint) -> Way:
    return lambda subscriber: lambda batch, bad: [batch.source.topic] * batch.count


def _partition(marker: Any, hint: Hint) -> Way:
    return lambda subscriber: lambda batch, bad: [batch.source.partition] * batch.count


# Each part: the types that it is read as, and what reads it.
PARTS: dict[Any, tuple[tuple[type, ...], Callable[[Any, Hint], Way]]] = {
    Key: ((bytes, str), _bytes_part("key", "keys")),
    Value: ((bytes, str), _bytes_part("value", "values")),
    Header: ((bytes, str), _header),
    Offset: ((int,), _offset),
    Timestamp: ((int,), _timestamp),
    Topic: ((str,), _topic),
    Partition: ((int,), _partition),
}


def _part(marker: Any, type: type, optional: bool = False) -> Way:
    return PARTS[marker][1](marker, Hint("", type, optional, False, (), MISSING))


RECORD: list[Way] = [
    _part(Key, bytes, optional=True),
    _part(Value, bytes, optional=True),
    all_headers,
    _part(Timestamp, int, optional=True),
    _part(Offset, int),
    _part(Topic, str),
    _part(Partition, int),
]
