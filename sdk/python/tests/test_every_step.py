"""The words of the Rust SDK say the same here: the plugin `every-step`, with its own cases."""

import json
import unittest
from datetime import timedelta
from pathlib import Path as File
from typing import Annotated, Any

from pelton_sdk import (
    Header,
    Json,
    NewRecord,
    NullOnMismatch,
    Path,
    Record,
    Set,
    Step,
    Symbol,
    Timestamp,
    Transform,
    _cases,
    clock,
    columns,
    config,
    fields,
    random,
    testing,
)

CASE = File(__file__).parents[3] / "plugins/every-step/cases/all"


@fields
class Input:
    op: str
    sym: Annotated[str | None, Symbol]
    small: int | None
    list: Annotated[list[int] | None, Json, NullOnMismatch]
    deep: Annotated[float | None, Path("d.e")]
    flag: bool | None
    blob: bytes | None
    header: Annotated[str | None, Header("h")]
    timestamp_ms: Annotated[int | None, Timestamp]


@columns
class Output:
    id: str | None = None
    kind: Annotated[str | None, Symbol] = None
    flag: Annotated[bool | None, Path("nested.flag")] = None
    small: int | None = None
    number: float | None = None
    blob: bytes | None = None
    list: Annotated[Any, Json] | None = None
    raw: Annotated[str | None, Json] = None
    note: str | Set = Set.LEAVE
    seen: str | None = None


class EveryStep(Transform):
    OUTPUTS = ("side", "other")

    def __init__(self, config: dict[str, Any]) -> None:
        pass

    def apply(self, input: Input, record: Record) -> Step[Output]:
        id = Output(id=input.op)
        match input.op:
            case "keep":
                return Step.keep()
            case "drop":
                return Step.drop()
            case "set":
                return Step.set(
                    Output(
                        id="nëw", kind="k", flag=True, small=200, number=0.5, blob=b"\x00\xff", list=[1, 2],
                        raw='{"a": [1]}', note="new",
                    )
                )  # fmt: skip
            case "null":
                return Step.set(Output(id=input.op, note=Set.NULL))
            case "remove":
                return Step.set(Output(note=Set.REMOVE))
            case "emit":
                return Step.emit_all([id, Output()])
            case "replace":
                return Step.replace_value("bytes")
            case "tombstone":
                return Step.tombstone()
            case "delete":
                return Step.delete()
            case "delete_row":
                return Step.delete_row(id)
            case "record":
                return Step.record(NewRecord(key="k", value=b"v", headers=[("h", "1"), ("n", None)], timestamp_ms=5))
            case "bare":
                return Step.record(NewRecord())
            case "to":
                return Step.set(id).to("other")
            case "also":
                return Step.set(id).also_to("side").also_to("other")
            case "and":
                return Step.keep() & Step.emit(id).to("side")
            case "reject":
                return Step.reject("bad", "why")
            case "retry":
                return Step.retry(timedelta(milliseconds=250), "busy", "later")
            case "skip":
                return Step.skip("old", f"offset {record.offset}")
            case "nan":
                return Step.set(Output(number=float("nan")))
            case _:
                return Step.emit(Output(id=input.op, kind=f"k{record.offset % 30}", seen=seen(input, record)))


def seen(input: Input, record: Record) -> str:
    """As Rust's `{:?}` writes it."""
    some = lambda value, text: "None" if value is None else f"Some({text(value)})"  # noqa: E731
    quoted = lambda text: json.dumps(text, ensure_ascii=False)  # noqa: E731
    blob = lambda value: str(list(value))  # noqa: E731
    read = ", ".join(
        [
            some(input.sym, quoted), some(input.small, str), some(input.list, str), some(input.deep, str),
            some(input.flag, lambda flag: str(flag).lower()), some(input.blob, blob),
        ]
    )  # fmt: skip
    headers = ", ".join(f"({quoted(name)}, {some(value, blob)})" for name, value in record.headers)
    key = None if record.key is None else record.key_text()
    parts = (
        f"{some(key, quoted)}, {some(input.header, quoted)}, [{headers}], {some(input.timestamp_ms, str)}, "
        f"{quoted(record.topic)}, {record.partition}"
    )
    told = f"{clock.now_ms()}, {random.generator().below(1_000_000)}, Some({some(config.get('greeting'), quoted)})"
    return f"({read}) ({parts}) ({told})"


class Cases(unittest.TestCase):
    def test_the_cases_of_the_rust_plugin_come_out_the_same(self) -> None:
        lines = _cases._json_lines(CASE / "input.jsonl")
        records = [_cases._record(CASE / "input.jsonl", *line) for line in lines]
        # There a field is a u8; Python has no such type.
        too_large = {at for at, (_, line) in enumerate(lines) if (line.get("value") or {}).get("small") == 256}
        expected = [line for _, line in _cases._json_lines(CASE / "expected.jsonl")]
        expected = [line for line in expected if line["record"] not in too_large]
        driver = testing.Driver(EveryStep, _cases._config(CASE / "config.yaml"))
        self.assertGreater(len(expected), 100)
        for size in (1, 7, None):
            found = [line for line in driver.run(records, size).lines if line["record"] not in too_large]
            self.assertEqual(_cases._differences(CASE, size, expected, found), [])
