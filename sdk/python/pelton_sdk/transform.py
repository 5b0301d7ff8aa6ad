"""The plugin's class, and the loop that carries a batch through it."""

from __future__ import annotations

import inspect
import json
import struct
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from . import _host
from ._cells import Bad
from ._parts import Subscriber
from .blame import told
from .columns import NOTHING, Column, Packed, columns_of
from .declaration import DeclarationError
from .fields import Record, View
from .shape import Misfit, reader
from .step import EMIT, REPLACE, Failure, Step


class ConfigError(ValueError):
    """Why a configuration is refused: what was found, and what to write instead."""

    @classmethod
    def key(cls, key: str, message: object) -> ConfigError:
        """A message about one key."""
        return cls(f"{key}: {message}")


class Transform:
    """A stream transform with a configuration: a class with an `apply`.

        class ShopOrders(Transform):
            OUTPUTS = ("alerts",)

            def __init__(self, config: Config) -> None:      # a dataclass; leave it out where there is no configuration
                self.config = config

            def apply(self, event: Event) -> Step[OrderRow]:
                ...

        export(ShopOrders)

    The hints of `apply` are the declaration: each parameter is a class with `fields`, or `Record`; the answer is a `Step` of
    a class with `columns`, or a bare `Step` where nothing is set. The outcome of a record must depend on the record and the
    configuration alone, never on its neighbours or on what was seen before: batches are cut anywhere, repeated, and handled
    by as many instances as the host likes.
    """

    OUTPUTS: Sequence[str] = ()
    """The named outputs that rows may be sent to with `Step.to` and `Step.also_to`."""


class Refused(Exception):
    """The plugin does not start; the message is for the operator."""


class Fatal(Exception):
    """The batch cannot be handled; the message says why."""


@dataclass
class Output:
    """What became of a batch, by the shapes of wit/types.wit."""

    # None: all; else the table of `kept`, or that of `edits`.
    kept: bytes | None
    edits: bytes | None
    data: bytes
    set_fields: list[Packed]
    # Each: row and failure.
    failures: list[tuple[int, Failure]]


# What the plugin's file exports.
exported: Plugin | None = None


def export(transform: Any, *, outputs: Sequence[str] = ()) -> None:
    """Makes a plugin of a class with an `apply`, or of a function. Once, at the end of plugin.py."""
    global exported
    made = Plugin(transform, outputs)
    if exported is not None and exported.name != made.name:
        raise DeclarationError(f"a plugin exports one transform: {exported.name} or {made.name}")
    exported = made


class Plugin:
    """A transform with what it declares."""

    def __init__(self, transform: Any, outputs: Sequence[str] = ()) -> None:
        self.name = getattr(transform, "__name__", repr(transform))
        self._transform = transform
        is_class = isinstance(transform, type)
        apply = getattr(transform, "apply", None) if is_class else transform
        if not inspect.isfunction(apply):
            raise DeclarationError(f"export wants a function, or a class with a method `apply`, not {self.name}")
        self._place = f"{apply.__code__.co_filename}:{apply.__code__.co_firstlineno}"
        self.outputs = tuple(getattr(transform, "OUTPUTS", ()) if is_class else outputs)
        if isinstance(getattr(transform, "OUTPUTS", outputs), str):
            raise DeclarationError(f'{self._place}: OUTPUTS is several names: write ("{"".join(self.outputs)}",)')
        hints = self._hints(apply)
        parameters = list(inspect.signature(apply).parameters)[is_class:]
        self.subscriber = Subscriber()
        self._views = [View(self._hint(hints, name), self.subscriber) for name in parameters]
        self._columns_class, self.columns = self._set_columns(hints.get("return", Step))
        self._read_config = self._configuration() if is_class else None

    def _hints(self, function: Callable[..., Any]) -> dict[str, Any]:
        scope = {}
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or ()):
            scope[name] = cell.cell_contents
        try:
            return typing.get_type_hints(function, localns=scope)
        except NameError as error:
            raise DeclarationError(f"{self._place}: {error}, which the type hints speak of") from None

    def _hint(self, hints: dict[str, Any], name: str) -> Any:
        hint = hints.get(name)
        if isinstance(hint, type) and (hint is Record or hasattr(hint, "__pelton_fields__")):
            return hint
        found = f"not {hint!r}" if hint else "it has none"
        raise DeclarationError(
            f"{self._place}: the type hint of `{name}` is a class with @fields above it, or Record; {found}"
        )

    def _set_columns(self, hint: Any) -> tuple[Any, list[Column]]:
        if hint is Step:
            return None, []
        if typing.get_origin(hint) is not Step:
            raise DeclarationError(f"{self._place}: `apply` answers with a Step: write `-> Step[Row]`, not {hint!r}")
        (of,) = typing.get_args(hint)
        return (None, []) if of is Any or of is None else (of, columns_of(of))

    def _configuration(self) -> Callable[[Any], Any] | None:
        init = self._transform.__init__
        if not inspect.isfunction(init):
            return None
        parameters = list(inspect.signature(init).parameters)[1:]
        if not parameters:
            return None
        place = f"{init.__code__.co_filename}:{init.__code__.co_firstlineno}"
        if len(parameters) > 1:
            raise DeclarationError(f"{place}: `__init__` takes the configuration alone")
        hint = self._hints(init).get(parameters[0])
        if hint is None:
            raise DeclarationError(f"{place}: `{parameters[0]}` has no type hint: write a dataclass, or dict[str, Any]")
        try:
            return reader(hint, strict=True)
        except TypeError as error:
            raise DeclarationError(f"{place}: {parameters[0]}: {error}") from None

    def start(self, config: str) -> Running:
        """Makes an instance. Raises `Refused` with a message for the operator."""
        value = json.loads(config)
        try:
            return Running(self, self._apply(value))
        except (Misfit, ConfigError) as refusal:
            raise Refused(str(refusal)) from refusal
        except Exception as error:
            raise Refused(f"it cannot start: {told(error)}") from error

    def _apply(self, config: Any) -> Callable[..., Any]:
        transform = self._transform
        if self._read_config is not None:
            # An absent block reads as an empty one, so that what is missing is named.
            return transform(self._read_config({} if config is None else config)).apply
        if config not in (None, {}):
            raise ConfigError("there is nothing to configure: leave `config:` out")
        return transform().apply if isinstance(transform, type) else transform

    def undeclared(self, output: str) -> str:
        """A mistake of the plugin's author, which no record can cause: what to write."""
        names = "".join(f'"{name}", ' for name in (*self.outputs, output))
        is_class = isinstance(self._transform, type)
        remedy = f"in class {self.name}: OUTPUTS = ({names})" if is_class else f"export({self.name}, outputs=({names}))"
        return f'a row is sent to output "{output}", which the plugin does not declare; write {remedy}'


class Running:
    """An instance of a plugin."""

    def __init__(self, plugin: Plugin, apply: Callable[..., Any]) -> None:
        self._plugin = plugin
        self._apply = apply
        self._routes = {"": 0, **{name: at + 1 for at, name in enumerate(plugin.outputs)}}

    def process(self, batch: Any, may_raise: bool = False) -> Output:
        """Carries a batch through. `may_raise` lets an author's exception through instead of making it the record's
        failure."""
        bad = Bad()
        views = [view.open(batch, bad) for view in self._plugin._views]
        inputs = zip(*views) if views else iter([()] * batch.count)
        out = _Rows(self)
        apply, push = self._apply, out.push
        try:
            for row, parts in enumerate(inputs):
                if bad and row in bad:
                    out.fail(row, bad[row])
                    continue
                _host.row = row
                try:
                    push(row, apply(*parts))
                except Failure as failure:
                    out.fail(row, failure)
                except (MemoryError, Fatal):
                    # Nothing that runs in here can be trusted any more, or no record is to blame.
                    raise
                except Exception as error:
                    if may_raise:
                        error.__pelton_row__ = row  # type: ignore[attr-defined]
                        raise
                    out.fail(row, Failure.reject("exception", told(error)))
        finally:
            _host.row = _host.NO_ROW
        return out.finish(batch.count)


# A row that leaves: its input row, op and route, the bytes that go with the op, what it sets.
_Leaving = tuple[int, int, bytes, Any]


class _Rows:
    """The output under way: which rows leave, and what they set."""

    def __init__(self, running: Running) -> None:
        self._plugin = running._plugin
        self._routes = running._routes
        self._columns_class = running._plugin._columns_class
        self._leaving: list[_Leaving] = []
        self._failures: list[tuple[int, Failure]] = []

    def push(self, row: int, step: Any) -> None:
        """What becomes of a row."""
        if type(step) is not Step:
            raise TypeError(f"`apply` answers with a Step, not with {step!r}: is a `return` missing?")
        if step._failure is not None:
            self.fail(row, step._failure)
            return
        for op, what, output, also in step._rows:
            span = b""
            if op == REPLACE or op == EMIT:
                span, what = what, None
            elif what is not None and type(what) is not self._columns_class:
                wanted = "none is declared" if self._columns_class is None else f"{self._columns_class.__name__} is"
                raise TypeError(f"columns of {type(what).__name__} are set, but {wanted}: see the hint `-> Step[…]`")
            if output:
                op |= self._route(output)
            self._leaving.append((row, op, span, what))
            for other in also:
                self._leaving.append((row, op & 0xFF | self._route(other), span, what))

    def _route(self, output: str) -> int:
        route = self._routes.get(output)
        if route is None:
            raise Fatal(self._plugin.undeclared(output))
        return route << 8

    def fail(self, row: int, failure: Failure) -> None:
        """A record that failed: it has no rows."""
        while self._leaving and self._leaving[-1][0] == row:
            self._leaving.pop()
        self._failures.append((row, failure))

    def finish(self, count: int) -> Output:
        """The tables."""
        packed = self._pack()
        if packed is None:
            self._fail_misfits()
            packed = self._pack()
            assert packed is not None, "each cell was tried alone"
        rows = [leaving[0] for leaving in self._leaving]
        kept = edits = None
        if any(op for _, op, _, _ in self._leaving):
            edits = self._edits()
        elif rows != list(range(count)):
            kept = struct.pack(f"<{len(rows)}I", *rows)
        data = b"".join([span for _, _, span, _ in self._leaving])
        return Output(kept, edits, data, packed, self._failures)

    def _pack(self) -> list[Packed] | None:
        columns = self._plugin.columns
        if not columns:
            return []
        nothing = (NOTHING,) * len(columns)
        sets = [nothing if set is None else set for _, _, _, set in self._leaving]
        found = []
        for column, cells in zip(columns, zip(*sets) if sets else [()] * len(columns)):
            packed = column.pack(cells)
            if packed is None:
                return None
            found.append(packed)
        return found

    def _fail_misfits(self) -> None:
        """Rows with a cell of another type than was declared: the record is to blame."""
        misfits: dict[int, str] = {}
        for row, _, _, set in self._leaving:
            for column, cell in zip(self._plugin.columns, set or ()):
                problem = column.misfit(cell)
                if problem is not None:
                    misfits.setdefault(row, f"{self._columns_class.__name__}.{problem}")
        self._leaving = [leaving for leaving in self._leaving if leaving[0] not in misfits]
        self._failures.extend((row, Failure.reject("wrong_type", problem)) for row, problem in misfits.items())
        self._failures.sort(key=lambda failure: failure[0])

    def _edits(self) -> bytes:
        words: list[int] = []
        offset = 0
        for row, op, span, _ in self._leaving:
            # An op without a span says 0, 0.
            words += (row, op, offset if span else 0, len(span))
            offset += len(span)
        return struct.pack(f"<{len(words)}I", *words)
