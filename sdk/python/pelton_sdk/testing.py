"""Run a plugin in plain `python -m unittest` or pytest, without WebAssembly.

In: a configuration and records. Out: what became of each, as readable JSON. The driver does what the host does: it
extracts the typed fields, packs the columns, carries them through the code that runs in a component, and checks what
comes back.

    run = testing.run(convert, None, [{"celsius": 100}, {"celsius": "hot"}])
    assert run.values("default") == [{"celsius": 100, "fahrenheit": 212.0}]
    assert run.failures() == [(1, "decode.wrong_type")]

`check_cases` runs the folders under `cases/` the same way. An exception of the plugin's comes out as it is; in a component
it becomes the failure `exception` of its record.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from . import _host
from ._answer import Lines
from ._batch import Placed, extract, packed
from ._generator import GOLDEN_GAMMA, Generator
from .transform import ConfigError, Fatal, Plugin, Refused

FIRST_TIMESTAMP_MS = 1_767_225_600_000
"""The timestamp of the first record where none is given: 2026-01-01T00:00:00Z."""

# The timestamp of a record that has none, where None stands for the default.
_NONE: Any = object()

__all__ = ["FIRST_TIMESTAMP_MS", "Driver", "Run", "TestRecord", "check_cases", "run"]


@dataclass
class TestRecord:
    """A record to feed. A value that is not bytes becomes JSON text; one without a value is a tombstone. A dict, a text or
    bytes can be fed without it: as the value of a record without key and headers."""

    value: Any = None
    key: bytes | str | None = None
    headers: Iterable[tuple[str, bytes | str | None]] = ()
    timestamp_ms: int | None = None
    """By default FIRST_TIMESTAMP_MS, and one second more for each record."""
    has_timestamp: bool = True
    offset: int | None = None
    """By default one more than that of the record before it in the same partition."""
    topic: str = "case"
    partition: int = 0

    # It is no test, whatever pytest thinks of its name.
    __test__ = False

    def _place(self, placed: list[Placed]) -> None:
        before = [one.offset for one in placed if (one.topic, one.partition) == (self.topic, self.partition)]
        offset = self.offset if self.offset is not None else (before[-1] + 1 if before else 0)
        if before and before[-1] >= offset:
            raise ValueError("offsets rise within a partition")
        default_ms = FIRST_TIMESTAMP_MS + 1000 * len(placed)
        time = (default_ms if self.timestamp_ms is None else self.timestamp_ms) if self.has_timestamp else None
        headers = [(name, _bytes(value)) for name, value in self.headers]
        placed.append(
            Placed(len(placed), _value(self.value), _bytes(self.key), headers, time, offset, self.topic, self.partition)
        )


def _bytes(value: bytes | str | None) -> bytes | None:
    return value.encode() if isinstance(value, str) else value


def _value(value: Any) -> bytes | None:
    if value is None or isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode()
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


@dataclass
class Run:
    """What became of some records."""

    # It is no test, whatever pytest thinks of it.
    __test__ = False

    lines: list[dict[str, Any]] = field(default_factory=list)
    """One line for each row that left and each record that failed, in the order of the records, as `expected.jsonl` of a
    case writes them."""
    logs: list[tuple[str, str]] = field(default_factory=list)
    """Level and text of what the plugin logged."""
    metrics: list[tuple[str, str, float]] = field(default_factory=list)
    """Kind (count, gauge, observe), name and number of each update."""

    def values(self, output: str = "default") -> list[Any]:
        """The values of the rows that left by an output, in order; a value that is no JSON stands as text."""
        keys = ("value", "value_text", "value_base64")
        return [line[key] for line in self._by(output) for key in keys if key in line]

    def deletes(self, output: str = "default") -> list[Any]:
        """The set fields of the rows that an output deletes, in order."""
        return [line["delete"] for line in self._by(output) if "delete" in line]

    def failures(self) -> list[tuple[int, str]]:
        """Number and code of the records that failed."""
        kinds = ("reject", "retry", "skip")
        return [(line["record"], line[kind]) for line in self.lines for kind in kinds if kind in line]

    def counted(self, name: str) -> int:
        """What was added to a counter in all."""
        return int(sum(number for kind, metric, number in self.metrics if (kind, metric) == ("count", name)))

    def _by(self, output: str) -> list[dict[str, Any]]:
        return [line for line in self.lines if line.get("output") == output]


class Driver:
    """A plugin under test: what `export` is given. Raises `ConfigError` where the configuration is refused, with the words
    that an operator would read."""

    def __init__(self, transform: Any, config: Any = None, *, outputs: Iterable[str] = ()) -> None:
        self._plugin = Plugin(transform, tuple(outputs))
        self._config = config
        self._first = Run()
        self._answer(self._first, [])
        try:
            self._running = self._plugin.start(json.dumps(config))
        except Refused as refusal:
            raise ConfigError(str(refusal)) from refusal.__cause__

    @property
    def started(self) -> Run:
        """What the plugin logged and counted when it started."""
        return self._first

    def run(self, records: Iterable[Any], batch_records: int | None = None) -> Run:
        """Runs records through the plugin, in batches of so many. A new batch begins where topic or partition changes."""
        placed: list[Placed] = []
        for record in records:
            (record if isinstance(record, TestRecord) else TestRecord(record))._place(placed)
        made = Run()
        while placed:
            first = placed[0]
            same = 0
            while same < min(len(placed), batch_records or len(placed)) and (
                (placed[same].topic, placed[same].partition) == (first.topic, first.partition)
            ):
                same += 1
            self._batch(placed[:same], made)
            del placed[:same]
        return made

    def _batch(self, records: list[Placed], run: Run) -> None:
        wanted = self._plugin.subscriber
        rows, cells, lines = extract(wanted, records)
        if rows:
            self._answer(run, rows)
            try:
                output = self._running.process(packed(wanted, rows, cells), may_raise=True)
            except Fatal as fatal:
                raise AssertionError(str(fatal)) from None
            except Exception as error:
                row = getattr(error, "__pelton_row__", None)
                if row is not None and hasattr(error, "add_note"):
                    error.add_note(f"while it handled record {rows[row].number}: {rows[row].value!r}")
                raise
            lines += Lines(self._plugin, rows, output).all()
        lines.sort(key=lambda line: line["record"])
        run.lines += lines

    def _answer(self, run: Run, rows: list[Placed]) -> None:
        def metric(kind: str) -> Any:
            return lambda name, number: run.metrics.append((kind, name, number))

        def config(key: str) -> str | None:
            found = (self._config or {}).get(key, _NONE)
            return None if found is _NONE else json.dumps(found)

        _host.native = {
            "log": SimpleNamespace(write=lambda level, message: run.logs.append((level, message))),
            "metrics": SimpleNamespace(count=metric("count"), gauge=metric("gauge"), observe=metric("observe")),
            "config": SimpleNamespace(get=config),
            "clock": SimpleNamespace(time=lambda row: -1 if rows[row].timestamp_ms is None else rows[row].timestamp_ms),
            "random": SimpleNamespace(seed=lambda row: _seed(rows[row])),
        }


def _seed(record: Placed) -> int:
    """The same number as the host's: `random` in wit/capabilities.wit says how it is made."""
    text = f"pelton-seed-1\0{record.topic}\0{record.partition}"
    head = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")
    return Generator(head + record.offset * GOLDEN_GAMMA).next_u64()


def run(transform: Any, config: Any, records: Iterable[Any], *, outputs: Iterable[str] = ()) -> Run:
    """Runs records through a new instance, all in one batch where they come from one partition."""
    return Driver(transform, config, outputs=outputs).run(records)


def check_cases(transform: Any, plugin_dir: Any, *, outputs: Iterable[str] = ()) -> None:
    """Runs every case of a plugin at batch sizes 1, 7 and all at once: a difference between them is hidden state. Raises
    AssertionError with every difference. `plugin_dir` is the directory with `cases/`, or a file in it: `__file__`."""
    from ._cases import check

    check(lambda config: Driver(transform, config, outputs=outputs), plugin_dir)
