"""The host's part before a call, natively: typed fields out of JSON values, by the rules of wit/types.wit, and the tables
in which they cross."""

from __future__ import annotations

import base64
import binascii
import json
import struct
from dataclasses import dataclass
from itertools import accumulate
from types import SimpleNamespace
from typing import Any

from ._parts import Subscriber
from .step import NULL


@dataclass
class Placed:
    """A record, with all defaults filled in."""

    number: int
    value: bytes | None
    key: bytes | None
    headers: list[tuple[str, bytes | None]]
    timestamp_ms: int | None
    offset: int
    topic: str
    partition: int


class _Reject(Exception):
    pass


def extract(wanted: Subscriber, records: list[Placed]) -> tuple[list[Placed], list[list[Any]], list[dict[str, Any]]]:
    """The records that the plugin sees, their cells, and the lines of those that it does not see."""
    fitting, cells, lines = [], [], []
    for record in records:
        if wanted.value_fields and record.value is None:
            # A tombstone has no fields, and passes by as it came.
            lines.append({"record": record.number, "output": "default", "value": None})
            continue
        try:
            document = _document(record.value or b"") if wanted.value_fields else None
            cells.append([_cell(document, *field) for field in wanted.value_fields])
            fitting.append(record)
        except _Reject as reject:
            code, message = reject.args
            lines.append({"record": record.number, "reject": code, "message": message})
    return fitting, cells, lines


def _document(value: bytes) -> Any:
    try:
        text = value.decode()
    except UnicodeDecodeError as error:
        raise _Reject("decode.invalid_utf8", f"the value is not UTF-8 from byte {error.start} on") from None
    begin = text.lstrip(" \t\r\n")[:1]
    if not begin:
        raise _Reject("decode.empty", "the value is empty, not a JSON object")
    if begin != "{":
        raise _Reject("decode.not_object", "the value is not a JSON object")
    try:
        return json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise _Reject("decode.malformed_json", f"the JSON is broken: {error}") from None


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _cell(document: Any, path: list[str], column: str, null_if_missing: bool, null_on_mismatch: bool) -> Any:
    found = document
    for name in path:
        found = found.get(name) if isinstance(found, dict) else None
    if found is None:
        if null_if_missing:
            return None
        raise _Reject("decode.missing_field", f"field {'.'.join(path)} is missing or null")
    if _FITS[column](found):
        return found
    if null_on_mismatch:
        return None
    raise _Reject("decode.wrong_type", f"field {'.'.join(path)}: a {column} is wanted, {found!r} was found")


def _is_base64(value: Any) -> bool:
    try:
        return isinstance(value, str) and base64.b64decode(value, validate=True) is not None
    except (binascii.Error, ValueError):
        return False


_FITS: dict[str, Any] = {
    "boolean": lambda value: type(value) is bool,
    "s64": lambda value: type(value) is int and -(1 << 63) <= value < 1 << 63,
    "f64": lambda value: type(value) in (int, float),
    "text": lambda value: isinstance(value, str),
    "symbol": lambda value: isinstance(value, str),
    "bytes": _is_base64,
    "json": lambda value: True,
}


def packed(wanted: Subscriber, records: list[Placed], cells: list[list[Any]]) -> Any:
    """The batch that crosses: of these records, what is subscribed."""

    def part(name: str, of: Any) -> Any:
        return _column([of(record) for record in records]) if name in wanted.parts else None

    def table(name: str, of: Any) -> bytes:
        return struct.pack(f"<{len(records)}q", *map(of, records)) if name in wanted.parts else b""

    def header(record: Placed, name: str) -> bytes | None:
        return next((value for found, value in reversed(record.headers) if found == name), None)

    return SimpleNamespace(
        count=len(records),
        source=SimpleNamespace(topic=records[0].topic, partition=records[0].partition),
        values=part("value", lambda record: record.value),
        keys=part("key", lambda record: record.key),
        headers=[_column([header(record, name) for record in records]) for name in wanted.headers],
        all_headers=part("all_headers", _headers),
        offsets=table("offset", lambda record: record.offset),
        timestamps=table("timestamp", lambda record: -1 if record.timestamp_ms is None else record.timestamp_ms),
        value_fields=[
            _field_column(column, [row[at] for row in cells])
            for at, (_, column, _, _) in enumerate(wanted.value_fields)
        ],
    )


def _column(cells: list[bytes | None]) -> Any:
    spans, data = [], b""
    for cell in cells:
        spans += [0, NULL] if cell is None else [len(data), len(cell)]
        data += cell or b""
    return SimpleNamespace(spans=struct.pack(f"<{len(spans)}I", *spans), data=data)


def _headers(record: Placed) -> bytes:
    made = b""
    for name, value in record.headers:
        made += struct.pack("<I", len(name.encode())) + name.encode()
        made += struct.pack("<I", NULL) if value is None else struct.pack("<I", len(value)) + value
    return made


def _field_column(column: str, cells: list[Any]) -> Any:
    validity = b""
    if None in cells:
        bits = sum(1 << row for row, cell in enumerate(cells) if cell is not None)
        validity = bits.to_bytes((len(cells) + 7) // 8, "little")
    if column in ("boolean", "s64", "f64"):
        code = {"boolean": "B", "s64": "q", "f64": "d"}[column]
        return SimpleNamespace(
            validity=validity, values=struct.pack(f"<{len(cells)}{code}", *(cell or 0 for cell in cells)), data=b""
        )
    blobs = [b"" if cell is None else _blob(column, cell) for cell in cells]
    if column == "symbol":
        entries = sorted(set(blobs))
        values = struct.pack(f"<{len(blobs)}I", *map(entries.index, blobs))
        offsets, data = _offsets(entries)
        return SimpleNamespace(validity=validity, values=values, data=struct.pack("<I", len(entries)) + offsets + data)
    values, data = _offsets(blobs)
    return SimpleNamespace(validity=validity, values=values, data=data)


def _blob(column: str, cell: Any) -> bytes:
    if column == "json":
        return json.dumps(cell, separators=(",", ":"), ensure_ascii=False).encode()
    return base64.b64decode(cell) if column == "bytes" else cell.encode()


def _offsets(cells: list[bytes]) -> tuple[bytes, bytes]:
    return struct.pack(f"<{len(cells) + 1}I", 0, *accumulate(map(len, cells))), b"".join(cells)
