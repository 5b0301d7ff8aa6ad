"""Typed columns, taken apart: from the tables of a batch to one list of values a column, all at once.

In: the packed column, and the rows that are null in it. Out: a value for each row; what stands at a null row means nothing.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

from .declaration import DeclarationError, Hint
from .shape import Misfit, reader
from .step import Failure


class Bad(dict[int, Failure]):
    """Rows that do not fit what is read, each with its first failure."""

    def note(self, row: int, failure: Failure) -> None:
        self.setdefault(row, failure)


# Takes a column apart: values, data, rows, rows that are null, rows that turn out bad.
Decode = Callable[[bytes, bytes, int, Sequence[int], Bad], Sequence[Any]]


def nulls(validity: bytes, count: int) -> list[int]:
    bits = f"{int.from_bytes(validity, 'little'):0{count}b}"[::-1]
    return [row for row in range(count) if bits[row] == "0"]


def _booleans(values: bytes, data: bytes, count: int, nulls: Sequence[int], bad: Bad) -> Sequence[Any]:
    return list(map(bool, values))


def _integers(values: bytes, data: bytes, count: int, nulls: Sequence[int], bad: Bad) -> Sequence[Any]:
    return struct.unpack(f"<{count}q", values)


def _floats(values: bytes, data: bytes, count: int, nulls: Sequence[int], bad: Bad) -> Sequence[Any]:
    return struct.unpack(f"<{count}d", values)


def _blobs(values: bytes, data: bytes, count: int, nulls: Sequence[int], bad: Bad) -> Sequence[Any]:
    return [data[start:end] for start, end in pairwise(struct.unpack(f"<{count + 1}I", values))]


def texts(values: bytes, data: bytes, count: int, nulls: Sequence[int], bad: Bad) -> Sequence[Any]:
    offsets = struct.unpack(f"<{count + 1}I", values)
    text = data.decode()
    if len(text) == len(data):
        return [text[start:end] for start, end in pairwise(offsets)]
    return [data[start:end].decode() for start, end in pairwise(offsets)]


def symbols(values: bytes, data: bytes, count: int, nulls: Sequence[int], bad: Bad) -> Sequence[Any]:
    (many,) = struct.unpack_from("<I", data)
    start = 4 + 4 * (many + 1)
    # At a null row any number may stand.
    entries = texts(data[4:start], data[start:], many, (), bad)
    indexes = struct.unpack(f"<{count}I", values)
    if nulls:
        return [entries[index] if index < many else None for index in indexes]
    return [entries[index] for index in indexes]


def jsons(hint: Hint, lenient: bool) -> Decode:
    try:
        read = reader(hint.type, strict=False)
    except TypeError as error:
        raise DeclarationError(str(error)) from None
    label = "field " + ".".join(hint.path())

    def decode(values: bytes, data: bytes, count: int, nulls: Sequence[int], bad: Bad) -> Sequence[Any]:
        cells = texts(values, data, count, nulls, bad)
        for row, text in enumerate(cells):
            if not text:
                continue
            try:
                cells[row] = parsed(text, read, label)  # type: ignore[index]
            except Failure as failure:
                if lenient and failure.code == "wrong_type":
                    cells[row] = None  # type: ignore[index]
                else:
                    bad.note(row, failure)
        return cells

    return decode


def _not_json(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


_scan = json.JSONDecoder(parse_constant=_not_json)


def parsed(text: str, read: Callable[[Any], Any], label: str) -> Any:
    try:
        value = _scan.decode(text)
    except (ValueError, RecursionError) as error:
        raise Failure.reject("malformed_json", f"{label}: {error}") from None
    try:
        return read(value)
    except Misfit as misfit:
        raise Failure.reject("wrong_type", str(misfit.within(label))) from None


TYPES: dict[Any, tuple[str, Decode]] = {
    bool: ("boolean", _booleans),
    int: ("s64", _integers),
    float: ("f64", _floats),
    str: ("text", texts),
    bytes: ("bytes", _blobs),
}
