"""Write Pelton plugins in Python.

A plugin is one function from what it reads of a record to a `Step`:

    from pelton_sdk import Step, columns, export, fields

    @fields
    class Reading:                      # what I read: extracted by the host
        sensor: str
        celsius: float
        battery: int | None             # may be missing; all else is rejected before I see it

    @columns
    class Row:                          # what I set
        fahrenheit: float

    def convert(reading: Reading) -> Step[Row]:
        if not reading.sensor:
            return Step.reject("no_sensor", "sensor is empty")
        return Step.set(Row(fahrenheit=reading.celsius * 1.8 + 32))

    export(convert)

A plugin with a configuration is a class: see `Transform`.

`log`, `metrics`, `config`, `clock` and `random` are capabilities: a plugin that imports one of them asks for it, and runs
only where it is granted. What is not imported from here is not imported by the component.

Where things are: `fields` reads columns, `columns` writes them, `step` says what may become of a record, `transform`
carries a batch through, `shape` holds JSON against type hints, `_host` is the one seam to the imports, `component` makes
the exports, and `testing` takes the host's place in a plain `python -m unittest`.
"""

from typing import TYPE_CHECKING as _TYPE_CHECKING

from .columns import Set, columns, replace
from .fields import (
    Header,
    Headers,
    Json,
    Key,
    Name,
    NullOnMismatch,
    Offset,
    Partition,
    Path,
    Record,
    Symbol,
    Timestamp,
    Topic,
    Value,
    fields,
)
from .shape import read_json
from .step import Failure, NewRecord, Step
from .transform import ConfigError, Transform, export

if _TYPE_CHECKING:
    from . import clock, config, log, metrics, random, testing

__all__ = [
    "ConfigError",
    "Failure",
    "Header",
    "Headers",
    "Json",
    "Key",
    "Name",
    "NewRecord",
    "NullOnMismatch",
    "Offset",
    "Partition",
    "Path",
    "Record",
    "Set",
    "Step",
    "Symbol",
    "Timestamp",
    "Topic",
    "Transform",
    "Value",
    "columns",
    "export",
    "fields",
    "read_json",
    "replace",
]

# `from pelton_sdk import clock` imports a module of its own, and so tells that the plugin wants the capability.
_ON_DEMAND = ("clock", "config", "log", "metrics", "random", "testing")


def __getattr__(name: str):
    if name in _ON_DEMAND:
        from importlib import import_module

        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
