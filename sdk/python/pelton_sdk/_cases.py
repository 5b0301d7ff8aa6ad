"""The folders under `cases/`: input, configuration, expected output. The format stands in `plugins/README.md`."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .testing import Driver, TestRecord


def check(driver: Callable[[Any], Driver], plugin_dir: Any) -> None:
    """Runs every case; raises AssertionError with every difference. With `PELTON_BLESS=1` in the environment the expected
    output is written anew: read the difference before you keep it."""
    place = Path(plugin_dir)
    cases = (place.parent if place.is_file() else place) / "cases"
    folders = sorted(folder for folder in cases.iterdir() if folder.is_dir()) if cases.is_dir() else []
    assert folders, f"{cases} has no case"
    differences: list[str] = []
    for folder in folders:
        config = _config(folder / "config.yaml")
        records = [_record(folder / "input.jsonl", *line) for line in _json_lines(folder / "input.jsonl")]
        expected_file = folder / "expected.jsonl"
        if os.environ.get("PELTON_BLESS"):
            lines = driver(config).run(records).lines
            expected_file.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
        expected = [line for _, line in _json_lines(expected_file)]
        for size in (1, 7, None):
            found = driver(config).run(records, batch_records=size).lines
            differences += _differences(folder, size, expected, found)
    assert not differences, "\n".join(differences)


def _differences(folder: Path, size: int | None, expected: list[Any], found: list[Any]) -> list[str]:
    lines = []
    for at in range(max(len(expected), len(found))):
        wanted = expected[at] if at < len(expected) else "nothing"
        got = found[at] if at < len(found) else "nothing"
        if not _same(wanted, got):
            show = [line if line == "nothing" else json.dumps(line, ensure_ascii=False) for line in (wanted, got)]
            place = f"{folder}, batches of {size or 'all'}, line {at + 1}"
            lines.append(f"{place}:\n  expected {show[0]}\n  found    {show[1]}")
    return lines


def _same(wanted: Any, got: Any) -> bool:
    """An expected failure without a message accepts any."""
    if isinstance(wanted, dict) and isinstance(got, dict):
        if {"reject", "retry", "skip"} & wanted.keys() and "message" not in wanted:
            got = {key: value for key, value in got.items() if key != "message"}
    return _equal(wanted, got)


def _equal(a: Any, b: Any) -> bool:
    """Equal, where numbers of equal value are equal, and true is no number."""
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_equal(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_equal, a, b))
    return type(a) is type(b) and a == b or isinstance(a, (int, float)) and isinstance(b, (int, float)) and a == b


def _json_lines(file: Path) -> list[tuple[int, Any]]:
    lines = []
    for number, line in enumerate(file.read_text(encoding="utf-8").split("\n"), 1):
        if line.strip() and not line.startswith("//"):
            try:
                lines.append((number, json.loads(line)))
            except ValueError as error:
                raise ValueError(f"{file}:{number}: {error}") from None
    return lines


def _record(file: Path, number: int, line: Any) -> TestRecord:
    from .testing import TestRecord

    made = TestRecord()
    for name, value in line.items():
        if name == "value":
            made.value = None if value is None else json.dumps(value, separators=(",", ":"), ensure_ascii=False)
        elif name == "value_text":
            made.value = value
        elif name in ("value_base64", "key_base64"):
            setattr(made, name.removesuffix("_base64"), base64.b64decode(value))
        elif name == "key":
            made.key = (
                value
                if value is None or isinstance(value, str)
                else json.dumps(value, separators=(",", ":"), ensure_ascii=False)
            )
        elif name == "headers":
            pairs = value.items() if isinstance(value, dict) else value
            made.headers = [
                (name, base64.b64decode(text["base64"]) if isinstance(text, dict) else text) for name, text in pairs
            ]
        elif name == "timestamp_ms":
            made.timestamp_ms, made.has_timestamp = value, value is not None
        elif name in ("offset", "topic", "partition"):
            setattr(made, name, value)
        else:
            raise ValueError(f"{file}:{number}: there is no key `{name}`")
    return made


def _config(file: Path) -> Any:
    if not file.is_file():
        return None
    text = file.read_text(encoding="utf-8")
    try:
        import yaml  # type: ignore[import-untyped, unused-ignore]
    except ImportError:
        from ._yaml import load

        return load(text, str(file))
    return yaml.safe_load(text)
