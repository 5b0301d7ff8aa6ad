"""Degrees Celsius to Fahrenheit: a transform in Python, without an SDK."""

import struct

import wit_world
from componentize_py_types import Err
from wit_world.imports import types
from wit_world.imports.types import (
    Failure,
    FailureKind_Reject,
    Field,
    Fields,
    FieldType,
    Output,
    OutputField,
    Policy,
    Selection_Kept,
    SetColumn,
    Subscription,
)

ABSOLUTE_ZERO = -273.15


class WitWorld(wit_world.WitWorld):
    def configure(self, settings: types.Settings) -> Subscription:
        if settings.config not in ("null", "{}"):
            raise Err("there is nothing to configure")
        return Subscription(
            fields=Fields(0),
            headers=[],
            routes=[],
            value_fields=[Field(["celsius"], FieldType.F64, Policy.REJECT, Policy.REJECT)],
            set_fields=[OutputField(["fahrenheit"], FieldType.F64)],
        )

    def process(self, batch: types.Batch) -> Output:
        kept, failures = [], []
        degrees = struct.unpack(f"<{batch.count}d", batch.value_fields[0].values)
        for row, celsius in enumerate(degrees):
            if celsius < ABSOLUTE_ZERO:
                message = f"{celsius} °C is below absolute zero"
                failures.append(Failure(row, FailureKind_Reject(), "below_zero", message))
            else:
                kept.append((row, celsius * 1.8 + 32))
        rows = struct.pack(f"<{len(kept)}I", *(row for row, _ in kept))
        values = struct.pack(f"<{len(kept)}d", *(value for _, value in kept))
        return Output(Selection_Kept(rows), b"", [SetColumn(b"", values, b"")], failures)
