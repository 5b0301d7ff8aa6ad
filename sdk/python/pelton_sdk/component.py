"""The exports of the component: the plugin that plugin.py exports, in the shapes of the generated bindings.

Only `pelton plugin build` imports this. What is loaded here stays loaded: a component has no files to import from later.
"""

from __future__ import annotations

import gc
import os
from types import ModuleType
from typing import Any

import wit_world
from componentize_py_types import Err
from wit_world.imports import types

from . import blame, transform
from .step import Failure

_PARTS = {
    "key": types.Fields.KEY,
    "value": types.Fields.VALUE,
    "all_headers": types.Fields.ALL_HEADERS,
    "offset": types.Fields.OFFSET,
    "timestamp": types.Fields.TIMESTAMP,
}


def exports(plugin_module: ModuleType) -> type:
    """The class that the tool looks for."""
    if transform.exported is None:
        raise transform.DeclarationError("plugin.py exports nothing")
    plugin: transform.Plugin = transform.exported
    blame.remember(os.path.dirname(str(plugin_module.__file__)))
    running: transform.Running | None = None

    class WitWorld(wit_world.WitWorld):
        def configure(self, settings: types.Settings) -> types.Subscription:
            nonlocal running
            try:
                running = plugin.start(settings.config)
            except transform.Refused as refusal:
                raise Err(str(refusal)) from None
            return _subscription(plugin)

        def process(self, batch: types.Batch) -> types.Output:
            try:
                if running is None:
                    raise transform.Fatal("process was called before configure")
                return _output(running.process(batch))
            except transform.Fatal as fatal:
                message = str(fatal)
            except BaseException as error:
                # It would trap, and its text would be lost.
                message = blame.told(error)
            raise Err(types.Error_Fatal(message))

    # What is loaded by now stays: the collector need not look at it again and again.
    gc.collect()
    gc.freeze()
    return WitWorld


def _subscription(plugin: transform.Plugin) -> types.Subscription:
    wanted = plugin.subscriber
    parts = types.Fields(0)
    for part in wanted.parts:
        parts |= _PARTS[part]
    return types.Subscription(
        fields=parts,
        headers=wanted.headers,
        routes=list(plugin.outputs),
        value_fields=[
            types.Field(path, types.FieldType[column.upper()], _policy(missing), _policy(mismatch))
            for path, column, missing, mismatch in wanted.value_fields
        ],
        set_fields=[types.OutputField(column.path, types.FieldType[column.type.upper()]) for column in plugin.columns],
    )


def _policy(null: bool) -> types.Policy:
    return types.Policy.NULL if null else types.Policy.REJECT


def _output(output: transform.Output) -> types.Output:
    rows: Any
    if output.edits is not None:
        rows = types.Selection_Edits(output.edits)
    elif output.kept is not None:
        rows = types.Selection_Kept(output.kept)
    else:
        rows = types.Selection_All()
    failures = [types.Failure(row, _kind(failure), failure.code, failure.message) for row, failure in output.failures]
    return types.Output(rows, output.data, [types.SetColumn(*packed) for packed in output.set_fields], failures)


def _kind(failure: Failure) -> Any:
    if failure.kind == "retry":
        return types.FailureKind_Retry(failure.delay_ms)
    return types.FailureKind_Skip() if failure.kind == "skip" else types.FailureKind_Reject()
