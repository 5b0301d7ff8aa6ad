"""The host's part after a call, natively: the tables that a plugin answers, checked, applied, and written as the lines of
`expected.jsonl`. A table that lies is a bug of this package, not of a plugin."""

from __future__ import annotations

import base64
import json
import math
import struct
from itertools import pairwise
from typing import Any

from ._batch import Placed
from ._parts import Headers, take
from .step import DELETE, EMIT, KEEP, NEW, REPLACE, TOMBSTONE
from .transform import Output, Plugin

_REMOVE = object()


class _Reject(Exception):
    pass


class Lines:
    """What became of a batch, line by line."""

    def __init__(self, plugin: Plugin, records: list[Placed], output: Output) -> None:
        self._records = records
        self._output = output
        self._routes = ("default", *plugin.outputs)
        self._edits = _edits(output, len(records))
        assert self._edits == sorted(self._edits, key=lambda edit: edit[0]), "rows never decrease"
        assert len(output.set_fields) == len(plugin.columns), "one column for each field that is set"
        self._paths = [column.path for column in plugin.columns]
        self._cells = [
            _cells(column.type, packed, len(self._edits)) for column, packed in zip(plugin.columns, output.set_fields)
        ]

    def all(self) -> list[dict[str, Any]]:
        """All lines, rows first."""
        lines = []
        for at, (row, op, offset, length) in enumerate(self._edits):
            record = self._records[row]
            try:
                made = self._line(at, record, op & 0xFF, self._output.data[offset : offset + length])
                lines.append({"record": record.number, "output": self._routes[op >> 8], **made})
            except _Reject as reject:
                code, message = reject.args
                lines.append({"record": record.number, "reject": code, "message": message})
        rejected = {line["record"] for line in lines if "reject" in line}
        lines = [line for line in lines if "reject" in line or line["record"] not in rejected]
        assert [row for row, _ in self._output.failures] == sorted({row for row, _ in self._output.failures})
        for row, failure in self._output.failures:
            assert all(edit[0] != row for edit in self._edits), "a failed record has no rows"
            line: dict[str, Any] = {"record": self._records[row].number, failure.kind: failure.code}
            if failure.kind == "retry":
                line["delay_ms"] = failure.delay_ms
            lines.append({**line, "message": failure.message})
        return lines

    def _line(self, at: int, record: Placed, op: int, span: bytes) -> dict[str, Any]:
        if op == KEEP:
            return _value(self._set(at, record.value))
        if op == REPLACE:
            return _value(span)
        if op == TOMBSTONE:
            return _value(None)
        if op == EMIT:
            return _unpacked(span, record)
        made = self._set(at, None) or b"{}"
        assert op in (DELETE, NEW), f"op {op} does not exist"
        return {"delete": json.loads(made)} if op == DELETE else _value(made)

    def _set(self, at: int, value: bytes | None) -> bytes | None:
        """The value with the set fields; as it was where none is set."""
        document: Any = None
        for path, cells in zip(self._paths, self._cells):
            state, cell = cells[at]
            if state == 0:
                continue
            if isinstance(cell, float) and not math.isfinite(cell):
                raise _Reject("encode.not_finite", f"field {'.'.join(path)}: not a finite number")
            if document is None:
                document = _parsed(value, path)
            parent = document
            for name in path[:-1]:
                parent = parent.setdefault(name, {})
                if not isinstance(parent, dict):
                    raise _Reject("encode.not_object", f"no field {'.'.join(path)} can be set")
            if state == 3:
                parent.pop(path[-1], None)
            else:
                parent[path[-1]] = None if state == 2 else cell
        return value if document is None else json.dumps(document, ensure_ascii=False).encode()


def _parsed(value: bytes | None, path: list[str]) -> dict[str, Any]:
    try:
        document = {} if value is None else json.loads(value)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise _Reject("encode.not_object", f"no field {'.'.join(path)} can be set")
    return document


def _edits(output: Output, count: int) -> list[tuple[int, ...]]:
    if output.edits is not None:
        edits = list(struct.iter_unpack("<4I", output.edits))
    elif output.kept is not None:
        edits = [(row, 0, 0, 0) for (row,) in struct.iter_unpack("<I", output.kept)]
    else:
        edits = [(row, 0, 0, 0) for row in range(count)]
    assert all(edit[0] < count for edit in edits), "every row exists"
    return edits


def _cells(column: str, packed: tuple[bytes, bytes, bytes], rows: int) -> list[tuple[int, Any]]:
    state, values, data = packed
    cells: list[Any]
    if column in ("boolean", "s64", "f64"):
        cells = [cell for (cell,) in struct.iter_unpack({"boolean": "<?", "s64": "<q", "f64": "<d"}[column], values)]
    elif column == "symbol":
        (many,) = struct.unpack_from("<I", data)
        entries = _cut(data[4 : 4 + 4 * (many + 1)], data[4 + 4 * (many + 1) :])
        # At a row that sets nothing any number may stand.
        cells = [entries[index].decode() if index < many else None for (index,) in struct.iter_unpack("<I", values)]
    else:
        cells = list(_cut(values, data))
        if column == "bytes":
            cells = [base64.b64encode(cell).decode() for cell in cells]
        elif column == "text":
            cells = [cell.decode() for cell in cells]
        else:
            cells = [json.loads(cell) if cell else None for cell in cells]
    assert len(cells) == rows, "one cell for each output row"
    assert len(state) in (0, rows), "one state a row, or none at all"
    return list(zip(state or [1] * rows, cells))


def _cut(offsets: bytes, data: bytes) -> list[bytes]:
    places = [place for (place,) in struct.iter_unpack("<I", offsets)]
    assert places[0] == 0 and places[-1] == len(data), "offsets begin at 0 and end with the data"
    return [data[start:end] for start, end in pairwise(places)]


def _value(value: bytes | None) -> dict[str, Any]:
    if value is None:
        return {"value": None}
    try:
        document = json.loads(value)
        if document is not None:
            return {"value": document}
    except ValueError:
        pass
    return _text("value_text", "value_base64", value)


def _text(text_key: str, base64_key: str, value: bytes) -> dict[str, Any]:
    try:
        return {text_key: value.decode()}
    except UnicodeDecodeError:
        return {base64_key: base64.b64encode(value).decode()}


def _unpacked(packed: bytes, record: Placed) -> dict[str, Any]:
    """A packed record: its value, and what differs from the input."""
    key, at = take(packed, 0)
    value, at = take(packed, at)
    time, count = struct.unpack_from("<qI", packed, at)
    headers = list(Headers(packed[at + 12 :]))
    assert len(headers) == count, "as many headers as were announced"
    line = _value(value)
    if key != record.key:
        line |= {"key": None} if key is None else _text("key", "key_base64", key)
    if headers != record.headers:
        line["headers"] = [[name, _header(value)] for name, value in headers]
    if time >= 0 and time != record.timestamp_ms:
        line["timestamp_ms"] = time
    return line


def _header(value: bytes | None) -> Any:
    if value is None:
        return None
    text = _text("text", "base64", value)
    return text.get("text", text)
