"""Declarations: from a class with type hints to a row class, or every mistake with its file and line.

In: the class that an author decorated. Out: for each hint its type, whether it may be missing, and its markers; and a class
of the same name whose objects are tuples, which are quickly made of columns and quickly made into columns.
"""

from __future__ import annotations

import ast
import keyword
import sys
import types
import typing
from collections import namedtuple
from dataclasses import dataclass
from typing import Any

MISSING: Any = object()


class DeclarationError(TypeError):
    """A declaration that makes no sense: what, where, and what to write instead."""


class Symbol:
    """Marks text with few distinct values, which then crosses once a batch: `Annotated[str, Symbol]`."""


class Json:
    """Marks any JSON value: `Annotated[list[Item], Json]` is checked against the type; `Annotated[str, Json]` is the raw
    text."""


class Path:
    """Marks a field inside of others: `Path("customer.country")`; where a name has a dot in it, `Path(["a.b", "c"])`."""

    def __init__(self, path: str | list[str]) -> None:
        self.names = path.split(".") if isinstance(path, str) else list(path)
        if not self.names or not all(isinstance(name, str) and name for name in self.names):
            raise DeclarationError(f'a path has no empty names: write Path("a.b"), not Path({path!r})')


class Name(Path):
    """Marks a field of another name than the attribute's: `Name("order-id")`."""

    def __init__(self, name: str) -> None:
        super().__init__([name])


@dataclass(frozen=True)
class Hint:
    """One attribute of a declaration."""

    name: str
    type: Any
    # `T | None`
    optional: bool
    # `T | Set`
    settable: bool
    markers: tuple[Any, ...]
    default: Any

    def marked(self, marker: type) -> Any:
        """The marker of this kind; None where there is none."""
        return next((found for found in self.markers if found is marker or isinstance(found, marker)), None)

    def path(self) -> list[str]:
        """Object keys from the root of the value."""
        path = self.marked(Path)
        return path.names if path else [self.name]


def hints_of(cls: type, set_type: type | None, frame: types.FrameType) -> list[Hint]:
    """The hints of a class's own body. `frame` is where it is declared, for names that are local there."""
    if cls.__bases__ != (object,):
        raise DeclarationError(f"{where(cls)}: {cls.__name__} has base classes; write all fields in its own body")
    scope = {**frame.f_globals, **frame.f_locals}
    try:
        hints = typing.get_type_hints(cls, scope, include_extras=True)
    except NameError as error:
        raise DeclarationError(f"{where(cls)}: {cls.__name__}: {error} where it is declared") from None
    found, problems = [], []
    for name, hint in hints.items():
        if name.startswith("_") or keyword.iskeyword(name):
            problems.append(
                at(
                    cls,
                    name,
                    f"an attribute has a plain name; write `{name.strip('_') or 'field'}: "
                    f'Annotated[…, Name("{name}")]`',
                )
            )
            continue
        found.append(_taken_apart(name, hint, set_type, cls.__dict__.get(name, MISSING)))
    refuse(problems)
    return found


def _taken_apart(name: str, hint: Any, set_type: type | None, default: Any) -> Hint:
    optional = settable = False
    markers: list[Any] = []
    while True:
        origin = typing.get_origin(hint)
        if origin is typing.Annotated:
            hint, *more = typing.get_args(hint)
            markers.extend(more)
        elif origin in (typing.Union, types.UnionType):
            parts = typing.get_args(hint)
            rest = [part for part in parts if part is not type(None) and part is not set_type]
            if len(rest) == len(parts) or not rest:
                break
            optional = optional or type(None) in parts
            settable = settable or set_type in parts
            hint = typing.Union[tuple(rest)]
        else:
            break
    return Hint(name, hint, optional, settable, tuple(markers), default)


def row_class(cls: type, hints: list[Hint]) -> type:
    """A class of the same name and body whose objects are tuples. Its objects are made of keywords."""
    names = [hint.name for hint in hints]
    base = namedtuple(cls.__name__, names, module=cls.__module__)  # type: ignore[misc]
    left_out = {"__dict__", "__weakref__", "__annotate__", "__annotate_func__", "__annotations_cache__", *names}
    body = {key: value for key, value in cls.__dict__.items() if key not in left_out}
    body["__slots__"] = ()
    body["__annotations__"] = {hint.name: hint.type for hint in hints}
    body["__new__"] = _constructor(cls.__name__, hints)
    made = type(cls.__name__, (base,), body)
    made.__qualname__ = cls.__qualname__
    return made


def _constructor(name: str, hints: list[Hint]) -> Any:
    parameters = "".join(
        f", {hint.name}" if hint.default is MISSING else f", {hint.name}=_default_{hint.name}" for hint in hints
    )
    values = "".join(f"{hint.name}, " for hint in hints)
    scope = {f"_default_{hint.name}": hint.default for hint in hints}
    scope["_new"] = tuple.__new__
    code = f"def __new__(_cls{', *' if hints else ''}{parameters}): return _new(_cls, ({values}))"
    exec(code, scope)  # noqa: S102 - as `dataclass` and `namedtuple` do; the names are checked
    made = scope["__new__"]
    made.__qualname__ = f"{name}.__new__"
    return made


def refuse(problems: list[str]) -> None:
    """Raises all mistakes at once."""
    if problems:
        raise DeclarationError("\n".join(problems))


def at(cls: type, name: str, problem: str) -> str:
    """A mistake in an attribute, with its file and line."""
    return f"{where(cls, name)}: {cls.__name__}.{name}: {problem}"


def where(cls: type, attribute: str | None = None) -> str:
    """`file:line` of a class, or of one of its attributes; the class's name where there is no source."""
    file = getattr(sys.modules.get(cls.__module__), "__file__", None)
    try:
        with open(file, encoding="utf-8") as source:  # type: ignore[arg-type]
            tree = ast.parse(source.read())
    except (OSError, TypeError, SyntaxError):
        return cls.__module__
    line = None
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and node.name == cls.__name__:
            line = node.lineno
            for part in node.body:
                if (
                    isinstance(part, ast.AnnAssign)
                    and isinstance(part.target, ast.Name)
                    and part.target.id == attribute
                ):
                    line = part.lineno
    return f"{file}:{line}" if line else str(file)


def shown(hint: Any) -> str:
    """A type as one writes it."""
    return hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint).replace("typing.", "")
