"""The part of YAML that configurations of cases use, for machines without PyYAML: block and flow collections of plain and
quoted scalars, and comments. Anything else is refused by its line."""

from __future__ import annotations

import json
import re
from typing import Any

_REFUSED = re.compile(r"[&*!|>%@`]|---|\.\.\.")
_INTEGER = re.compile(r"[-+]?[0-9]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_WORDS = {"null": None, "~": None, "": None, "true": True, "false": False}


def load(text: str, file: str) -> Any:
    """The document's value."""
    lines = []
    for number, line in enumerate(text.split("\n"), 1):
        content = _without_comment(line).rstrip()
        if content.strip():
            lines.append((len(content) - len(content.lstrip()), content.strip(), number))
    reader = _Reader(lines, file)
    value = reader.block(0) if lines else None
    if reader.at < len(lines):
        reader.refuse("this line does not belong to what stands above it")
    return value


def _without_comment(line: str) -> str:
    quote = ""
    for at, c in enumerate(line):
        if quote:
            quote = "" if c == quote else quote
        elif c in "'\"" and (at == 0 or line[at - 1] in " [{,:"):
            quote = c
        elif c == "#" and (at == 0 or line[at - 1] in " \t"):
            return line[:at]
    return line


class _Reader:
    def __init__(self, lines: list[tuple[int, str, int]], file: str) -> None:
        self.lines, self.file, self.at = lines, file, 0

    def refuse(self, problem: str) -> Any:
        number = self.lines[min(self.at, len(self.lines) - 1)][2]
        raise ValueError(f"{self.file}:{number}: {problem}; with `pip install pyyaml` any YAML is read")

    def block(self, indent: int) -> Any:
        own, content, _ = self.lines[self.at]
        if own < indent:
            return None
        if content.startswith("- ") or content == "-":
            items = []
            while self._is_here(own, "-"):
                rest = self.lines[self.at][1][1:].strip()
                if _key(rest):
                    self.refuse("a mapping in a list is written as `{ key: value }` here")
                items.append(self._after(rest, own))
            return items
        if _key(content) is None:
            value = self._flow(content)
            self.at += 1
            return value
        entries: dict[str, Any] = {}
        while self._is_here(own, ""):
            key = _key(self.lines[self.at][1])
            if key is None:
                return self.refuse("`key: value` is wanted")
            entries[str(self._scalar(key[0]))] = self._after(key[1], own)
        return entries

    def _is_here(self, indent: int, start: str) -> bool:
        return (
            self.at < len(self.lines) and self.lines[self.at][0] == indent and self.lines[self.at][1].startswith(start)
        )

    def _after(self, rest: str, indent: int) -> Any:
        if rest:
            value = self._flow(rest)
            self.at += 1
            return value
        self.at += 1
        if self.at < len(self.lines) and self.lines[self.at][0] > indent:
            return self.block(indent + 1)
        return None

    def _flow(self, text: str) -> Any:
        value, rest = self._value(text)
        if rest.strip():
            self.refuse(f"{rest.strip()!r} is not understood")
        return value

    def _value(self, text: str) -> tuple[Any, str]:
        text = text.lstrip()
        if text[:1] in ("[", "{"):
            return self._collection(text[0], text[1:])
        if text[:1] == '"':
            try:
                value, end = json.JSONDecoder().raw_decode(text)
            except ValueError:
                return self.refuse("the text in quotes is not understood")
            return value, text[end:]
        if text[:1] == "'":
            match = re.match(r"'((?:[^']|'')*)'", text) or self.refuse("the text in quotes has no end")
            return match[1].replace("''", "'"), text[match.end() :]
        return self._scalar(text), ""

    def _collection(self, opening: str, text: str) -> tuple[Any, str]:
        closing = "]" if opening == "[" else "}"
        items: list[Any] = []
        entries: dict[str, Any] = {}
        while True:
            text = text.lstrip()
            if text.startswith(closing):
                return (items if opening == "[" else entries), text[1:]
            if not text:
                self.refuse(f"`{closing}` is missing; it stands on the same line here")
            key = None
            if opening == "{":
                match = re.match(r"""("[^"]*"|'[^']*'|[^:,{}\[\]]+):(\s|$)""", text) or self.refuse(
                    "`key: value` is wanted"
                )
                key, text = str(self._flow(match[1])), text[match.end() :].lstrip()
            if text[:1] in ("[", "{", '"', "'"):
                value, text = self._value(text)
            else:
                plain = re.match(r"[^,\[\]{}]*", text)
                assert plain is not None, "it matches nothing, too"
                value, text = self._scalar(plain[0].strip()), text[plain.end() :]
            if key is None:
                items.append(value)
            else:
                entries[key] = value
            text = text.lstrip()
            if text.startswith(","):
                text = text[1:]
            elif not text.startswith(closing):
                self.refuse(f"`,` or `{closing}` is wanted")

    def _scalar(self, text: str) -> Any:
        text = text.strip()
        if text in _WORDS:
            return _WORDS[text]
        if text[:1] in "'\"" and text:
            return self._flow(text)
        if _INTEGER.fullmatch(text):
            return int(text)
        if _FLOAT.fullmatch(text):
            return float(text)
        if _REFUSED.match(text):
            self.refuse(f"{text!r} is not understood")
        return text


def _key(content: str) -> tuple[str, str] | None:
    """`key: value` taken apart; none where it is another thing."""
    match = re.match(r"""("[^"]*"|'[^']*'|[^\s"'\[{][^:]*?)\s*:(?:\s+(.*))?$""", content)
    return (match[1], (match[2] or "").strip()) if match else None
