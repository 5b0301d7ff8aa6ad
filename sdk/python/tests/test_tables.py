"""The bytes that wit/README.md shows are the bytes that cross."""

import re
import unittest
from pathlib import Path as File
from typing import Annotated

from pelton_sdk import (
    Header,
    Headers,
    Key,
    NewRecord,
    Offset,
    Path,
    Set,
    Step,
    Symbol,
    Timestamp,
    columns,
    fields,
    testing,
)
from pelton_sdk._batch import Placed, extract, packed
from pelton_sdk.columns import Column
from pelton_sdk.transform import Plugin

PAGE = re.sub(r"\s", "", (File(__file__).parents[3] / "wit/README.md").read_text(encoding="utf-8"))


@fields
class Example:
    id: str
    n: int | None
    kind: Annotated[str, Path("meta.kind"), Symbol]
    trace: Annotated[str | None, Header("trace")]
    headers: Headers
    key: Annotated[bytes | None, Key]
    offset: Annotated[int, Offset]
    timestamp_ms: Annotated[int | None, Timestamp]


@columns
class Row:
    total: int | None = None
    tag: str | None = None


def example(example: Example) -> Step[Row]:
    if example.offset == 41:
        return Step.set(Row(total=238, tag="x")) & Step.emit(Row(total=238)).to("alerts")
    if example.offset == 42:
        return Step.record(NewRecord(key="k", headers=[("h", "1")]))
    return Step.delete_row(Row(tag="é"))


def records() -> list[Placed]:
    placed: list[Placed] = []
    for record in [
        testing.TestRecord({"id": "ä", "n": 1, "meta": {"kind": "new"}}, key="A", headers=[("trace", "1")], offset=41),
        testing.TestRecord({"id": "b", "meta": {"kind": "new"}}, offset=42),
        testing.TestRecord({"id": "", "n": -2, "meta": {"kind": "old"}}, key="", headers=[("trace", None)], offset=44,
                           has_timestamp=False),
    ]:  # fmt: skip
        record.topic, record.partition = "shop.orders", 3
        record._place(placed)
    return placed


class Tables(unittest.TestCase):
    def shows(self, what: str, table: bytes) -> None:
        self.assertTrue(table and table.hex() in PAGE, f"wit/README.md does not show {what}: {table.hex()}")

    def test_the_page_shows_what_crosses(self) -> None:
        plugin = Plugin(example, ["alerts"])
        placed, cells, _ = extract(plugin.subscriber, records())
        batch = packed(plugin.subscriber, placed, cells)
        self.shows("the keys' spans", batch.keys.spans)
        self.shows("a header's spans", batch.headers[0].spans)
        self.shows("all headers", batch.all_headers.data)
        self.shows("offsets", batch.offsets)
        self.shows("timestamps", batch.timestamps)
        id, n, kind = batch.value_fields
        self.shows("id's offsets", id.values)
        self.shows("n's values", n.values)
        self.assertEqual((id.validity, n.validity, kind.validity), (b"", b"\x05", b""))
        self.shows("kind's indexes", kind.values)
        self.shows("kind's dictionary", kind.data)

        output = plugin.start("null").process(batch)
        self.shows("edits", output.edits or b"")
        self.shows("the packed record", output.data)
        for name, (state, values, _) in zip(("total", "tag"), output.set_fields):
            self.shows(f"{name}: state", state)
            self.shows(f"{name}: values", values)
        self.shows("tag's data", output.set_fields[1][2])

    def test_the_smallest_shape_that_can_say_what_leaves_is_taken(self) -> None:
        seen: list[object] = []

        @fields
        class Number:
            n: int

        def odd(number: Number) -> Step:
            return Step.keep() if number.n % 2 else Step.drop()

        plugin = Plugin(odd)
        for numbers in ([1, 3], [1, 2, 3], [2]):
            placed: list[Placed] = []
            for n in numbers:
                testing.TestRecord({"n": n})._place(placed)
            placed, cells, _ = extract(plugin.subscriber, placed)
            output = plugin.start("null").process(packed(plugin.subscriber, placed, cells))
            seen.append((output.kept, output.edits))
        self.assertEqual(seen, [(None, None), (bytes([0, 0, 0, 0, 2, 0, 0, 0]), None), (b"", None)])

    def test_a_column_that_is_always_set_has_no_states(self) -> None:
        total, tag = columns_of(Row)
        self.assertEqual(tag.pack(["ab", ""]), (b"", bytes([0, 0, 0, 0, 2, 0, 0, 0, 2, 0, 0, 0]), b"ab"))
        state, values, _ = total.pack([1, None]) or (b"", b"", b"")
        self.assertEqual((state, len(values)), (b"\x01\x00", 16))

    def test_cells_that_do_not_fit_are_told_by_type(self) -> None:
        total, tag = columns_of(Row)
        for column, cell in [
            (total, "1"),
            (total, True),
            (total, 1 << 63),
            (total, Set.NULL),
            (tag, 1),
            (tag, "\ud800"),
        ]:
            self.assertIsNone(column.pack([cell]), cell)
        self.assertIn("int | None is wanted, '1' was given", total.misfit("1") or "")


def columns_of(cls: object) -> list[Column]:
    return cls.__pelton_columns__  # type: ignore[attr-defined]
