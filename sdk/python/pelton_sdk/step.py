"""What should happen with a record."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Generic, TypeVar

O = TypeVar("O")

# The ops of `selection.edits` in wit/types.wit.
KEEP, REPLACE, TOMBSTONE, EMIT, DELETE, NEW = range(6)
NULL = 0xFFFF_FFFF

_CODE = re.compile(r"[a-z0-9_]{1,64}")


class Failure(Exception):
    """Why a record failed, and what to do about it. Raise it anywhere below `apply`: it becomes the record's fate."""

    kind: str
    code: str
    message: str
    delay_ms: int

    def __init__(self, kind: str, code: str, message: object = "", delay_ms: int = 0) -> None:
        if not (isinstance(code, str) and _CODE.fullmatch(code)):
            raise ValueError(
                f"a failure's code is of lower-case letters, digits and underscores (1 to 64), not {code!r}"
            )
        self.kind, self.code, self.message, self.delay_ms = kind, code, str(message), delay_ms
        super().__init__(f"{code}: {message}")

    @classmethod
    def reject(cls, code: str, message: object = "") -> Failure:
        """See `Step.reject`."""
        return cls("reject", code, message)

    @classmethod
    def retry(cls, delay: timedelta, code: str, message: object = "") -> Failure:
        """See `Step.retry`."""
        return cls("retry", code, message, min(max(0, round(delay / timedelta(milliseconds=1))), NULL))

    @classmethod
    def skip(cls, code: str, message: object = "") -> Failure:
        """See `Step.skip`."""
        return cls("skip", code, message)


class Step(Generic[O]):
    """A record's fate, as a plugin says it. Rows go to the default output unless `to` sends them elsewhere."""

    __slots__ = ("_failure", "_rows")

    def __init__(self, rows: tuple[tuple[int, Any, str, tuple[str, ...]], ...], failure: Failure | None = None) -> None:
        # Each row: op, what goes with it, its output (empty: the default one), further outputs that get the same.
        self._rows = rows
        self._failure = failure

    @staticmethod
    def keep() -> Step[Any]:
        """The record leaves as it came."""
        return _KEEP

    @staticmethod
    def drop() -> Step[Any]:
        """The record is filtered out: it is done, and leaves nothing."""
        return _DROP

    @staticmethod
    def set(columns: O) -> Step[O]:
        """The record leaves with these fields set in its value; its other fields stay. In a table, columns that are not
        set come from the record's fields of the same name."""
        return Step(((KEEP, columns, "", ()),))

    @staticmethod
    def emit(columns: O) -> Step[O]:
        """A new value leaves, made of these fields alone; key, headers and timestamp are the record's. In a table, columns
        that are not set stay as they are."""
        return Step(((NEW, columns, "", ()),))

    @staticmethod
    def emit_all(rows: Iterable[O]) -> Step[O]:
        """As `emit`, once for each; none is the same as `drop`."""
        return Step(tuple((NEW, columns, "", ()) for columns in rows))

    @staticmethod
    def record(record: NewRecord) -> Step[Any]:
        """A whole record of your own leaves: its key, value, headers."""
        return Step(((EMIT, record._pack(), "", ()),))

    @staticmethod
    def replace_value(value: bytes | str) -> Step[Any]:
        """The record leaves with these bytes as its value."""
        return Step(((REPLACE, _bytes("value", value), "", ()),))

    @staticmethod
    def tombstone() -> Step[Any]:
        """The record leaves with a null value."""
        return Step(((TOMBSTONE, None, "", ()),))

    @staticmethod
    def delete() -> Step[Any]:
        """In a table the row is deleted whose key columns are the record's fields of those names. In a topic a tombstone is
        written under the record's key."""
        return Step(((DELETE, None, "", ()),))

    @staticmethod
    def delete_row(key_columns: O) -> Step[O]:
        """As `delete`, where the key columns are set here."""
        return Step(((DELETE, key_columns, "", ()),))

    @staticmethod
    def reject(code: str, message: object = "") -> Step[Any]:
        """The record is wrong: it goes to the dead letters. The code is short, stable, lower case with underscores, and
        becomes a label of a metric; the message is for people."""
        return Step((), Failure.reject(code, message))

    @staticmethod
    def retry(delay: timedelta, code: str, message: object = "") -> Step[Any]:
        """The record cannot be handled now: it is tried again after `delay` (a minute at most), and holds its partition
        meanwhile. After the pipeline's number of attempts it goes to the dead letters."""
        return Step((), Failure.retry(delay, code, message))

    @staticmethod
    def skip(code: str, message: object = "") -> Step[Any]:
        """The record is passed over and counted under its code."""
        return Step((), Failure.skip(code, message))

    def to(self, output: str) -> Step[O]:
        """Sends the rows of this step to a named output, one of the plugin's `OUTPUTS`."""
        return Step(tuple((op, what, output, also) for op, what, _, also in self._rows), self._failure)

    def also_to(self, output: str) -> Step[O]:
        """Sends the rows of this step to a named output as well."""
        return Step(tuple((op, what, to, (*also, output)) for op, what, to, also in self._rows), self._failure)

    def and_(self, other: Step[Any]) -> Step[Any]:
        """The rows of both steps leave; `first & second` says the same. A failure in either is the fate of the record."""
        return Step(self._rows + other._rows, self._failure or other._failure)

    __and__ = and_

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Step):
            return NotImplemented
        return (self._rows, _parts(self._failure)) == (other._rows, _parts(other._failure))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        if self._failure:
            return f"Step.{self._failure.kind}({self._failure.code!r}, {self._failure.message!r})"
        return f"Step({list(self._rows)!r})"


def _parts(failure: Failure | None) -> tuple[Any, ...]:
    return (failure.kind, failure.code, failure.message, failure.delay_ms) if failure else ()


_DROP: Step[Any] = Step(())
_KEEP: Step[Any] = Step(((KEEP, None, "", ()),))


@dataclass
class NewRecord:
    """A record of the plugin's own making, for `Step.record`. Without a timestamp it has the input's; without a key or a
    value they are null. Text is written as UTF-8."""

    key: bytes | str | None = None
    value: bytes | str | None = None
    headers: Sequence[tuple[str, bytes | str | None]] = field(default_factory=tuple)
    timestamp_ms: int | None = None

    def _pack(self) -> bytes:
        parts = [_packed("key", self.key), _packed("value", self.value)]
        time = -1 if self.timestamp_ms is None else self.timestamp_ms
        parts.append(struct.pack("<qI", time, len(self.headers)))
        for name, value in self.headers:
            parts.append(_packed("a header's name", name))
            parts.append(_packed(f"header {name}", value))
        return b"".join(parts)


def _packed(what: str, value: bytes | str | None) -> bytes:
    if value is None:
        return struct.pack("<I", NULL)
    data = _bytes(what, value)
    return struct.pack("<I", len(data)) + data


def _bytes(what: str, value: bytes | str) -> bytes:
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    raise TypeError(f"{what} is bytes or text, not {type(value).__name__}")
