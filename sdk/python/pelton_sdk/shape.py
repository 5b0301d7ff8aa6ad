"""JSON held against type hints: configurations, and fields that are any JSON.

In: a type hint. Out: a function from a parsed JSON value to one of that type, which raises `Misfit` with the path and, in
words, what is wanted and what was found. Types are bool, int, float, str, None, Any, `A | B`, Literal, list, tuple, dict of
text to something, and dataclasses of such.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import types
import typing
from collections.abc import Callable
from typing import Any

Read = Callable[[Any], Any]


class Misfit(ValueError):
    """A value that does not fit: each mistake with its path."""

    def __init__(self, *problems: tuple[str, str]) -> None:
        self.problems = problems
        super().__init__("; ".join(f"{path}: {problem}" if path else problem for path, problem in problems))

    def within(self, name: str) -> Misfit:
        """The same, seen from one level up."""

        def joined(path: str) -> str:
            if not path or path.startswith("["):
                return f"{name}{path}"
            return f"{name}.{path}"

        return Misfit(*((joined(path), problem) for path, problem in self.problems))


def read_json(text: str | bytes, type: Any = Any) -> Any:
    """JSON text as a value of this type: bool, int, float, str, list, dict, a dataclass. Raises `ValueError` that says where it
    is no JSON, or what does not fit."""
    return reader(type, strict=False)(json.loads(text, parse_constant=_no_constant))


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


@functools.lru_cache(maxsize=256)
def reader(hint: Any, strict: bool) -> Read:
    """What reads this type. `strict` refuses keys that a dataclass does not have.

    Raises TypeError for a hint that no JSON can be held against."""
    if hint is Any or hint is object:
        return lambda value: value
    if hint in _SCALARS:
        return _SCALARS[hint]
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return reader(parts[0], strict)
    if origin in (typing.Union, types.UnionType):
        return _either([reader(part, strict) for part in parts])
    if origin is typing.Literal:
        return _one_of(parts)
    if hint is list or origin is list:
        return _items(reader(parts[0], strict) if parts else reader(Any, strict), list)
    if origin is tuple and len(parts) == 2 and parts[1] is Ellipsis:
        return _items(reader(parts[0], strict), tuple)
    if hint is dict or origin is dict:
        if parts and parts[0] is not str:
            raise TypeError("the keys of a JSON object are text: write dict[str, …]")
        return _entries(reader(parts[1], strict) if parts else reader(Any, strict))
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return _dataclass(hint, strict)
    raise TypeError(f"no JSON can be read as {hint!r}: use bool, int, float, str, list, dict, a dataclass, or Any")


def kind(value: Any) -> str:
    """What a JSON value is, in words."""
    if value is None:
        return "null"
    if isinstance(value, (dict, list)):
        return "an object" if isinstance(value, dict) else "an array"
    return json.dumps(value, ensure_ascii=False)


def _wanted(what: str, value: Any) -> Misfit:
    return Misfit(("", f"{what} is wanted, {kind(value)} was found"))


def _bool(value: Any) -> bool:
    if value is True or value is False:
        return value
    raise _wanted("true or false", value)


def _int(value: Any) -> int:
    if type(value) is int:
        return value
    raise _wanted("a whole number", value)


def _float(value: Any) -> float:
    if type(value) is float or type(value) is int:
        return float(value)
    raise _wanted("a number", value)


def _str(value: Any) -> str:
    if type(value) is str:
        return value
    raise _wanted("a text", value)


def _none(value: Any) -> None:
    if value is not None:
        raise _wanted("null", value)


_SCALARS: dict[Any, Read] = {bool: _bool, int: _int, float: _float, str: _str, type(None): _none, None: _none}


def _either(readers: list[Read]) -> Read:
    def read(value: Any) -> Any:
        misfits = []
        for one in readers:
            try:
                return one(value)
            except Misfit as misfit:
                misfits.append(misfit)
        # What got furthest knows best what is wrong; of `T | None` it is T.
        raise next((misfit for misfit in misfits if misfit.problems[0][0]), misfits[0])

    return read


def _one_of(values: tuple[Any, ...]) -> Read:
    def read(value: Any) -> Any:
        if any(value == one and type(value) is type(one) for one in values):
            return value
        raise _wanted("one of " + ", ".join(map(kind, values)), value)

    return read


def _items(item: Read, made: type) -> Read:
    def read(value: Any) -> Any:
        if not isinstance(value, list):
            raise _wanted("an array", value)
        found: list[Any] = []
        problems: list[tuple[str, str]] = []
        for at, one in enumerate(value):
            try:
                found.append(item(one))
            except Misfit as misfit:
                problems.extend(misfit.within(f"[{at}]").problems)
        if problems:
            raise Misfit(*problems)
        return made(found)

    return read


def _entries(item: Read) -> Read:
    def read(value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise _wanted("an object", value)
        found: dict[str, Any] = {}
        problems: list[tuple[str, str]] = []
        for key, one in value.items():
            try:
                found[key] = item(one)
            except Misfit as misfit:
                problems.extend(misfit.within(key).problems)
        if problems:
            raise Misfit(*problems)
        return found

    return read


def _dataclass(cls: type, strict: bool) -> Read:
    hints = typing.get_type_hints(cls, include_extras=True)
    fields = {field.name: reader(hints[field.name], strict) for field in dataclasses.fields(cls) if field.init}
    required = [
        field.name
        for field in dataclasses.fields(cls)
        if field.init and field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]

    def read(value: Any) -> Any:
        if not isinstance(value, dict):
            raise _wanted("an object", value)
        found: dict[str, Any] = {}
        problems: list[tuple[str, str]] = []
        for key, one in value.items():
            if key in fields:
                try:
                    found[key] = fields[key](one)
                except Misfit as misfit:
                    problems.extend(misfit.within(key).problems)
            elif strict:
                problems.append((key, f"there is no such key; the keys are {', '.join(fields)}"))
        problems.extend((name, "is missing") for name in required if name not in value)
        if problems:
            raise Misfit(*problems)
        try:
            return cls(**found)
        except Misfit:
            raise
        except ValueError as error:
            # What its own `__post_init__` has against it.
            raise Misfit(("", str(error))) from error

    return read
