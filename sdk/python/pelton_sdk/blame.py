"""An exception, told with the author's own files and lines.

In a component there are no files: what is shown of them is what `remember` has read before.
"""

from __future__ import annotations

import linecache
import os
import sys
from types import TracebackType

# The text of files by their name in a code object.
_remembered: dict[str, list[str]] = {}
# The directory that names are shown from, once it is known.
_root = ""
_SDK = os.path.dirname(os.path.abspath(__file__))
_FRAMES_MAX = 20


def remember(directory: str) -> None:
    """Keeps the text of every loaded module below a directory; names are shown from there."""
    show_from(directory)
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if isinstance(file, str) and file.startswith(_root) and file.endswith(".py"):
            try:
                with open(file, encoding="utf-8") as source:
                    _remembered[file] = source.read().splitlines()
            except (OSError, UnicodeDecodeError):
                continue


def show_from(directory: str) -> None:
    """Names of files are shown from this directory, where they lie below it."""
    global _root
    _root = os.path.join(directory, "")


def told(error: BaseException) -> str:
    """`plugin.py:42: ValueError: …`, and the way there."""
    frames = author_frames(error.__traceback__)
    what = _words(error)
    if not frames:
        return what
    file, line, _ = frames[-1]
    lines = [f"{file}:{line}: {what}", "Traceback (most recent call last):"]
    if len(frames) > _FRAMES_MAX:
        lines.append(f"  … {len(frames) - _FRAMES_MAX} more")
    for file, line, frame in frames[-_FRAMES_MAX:]:
        lines.append(f'  File "{file}", line {line}, in {frame.tb_frame.f_code.co_name}')
        source = _source(frame.tb_frame.f_code.co_filename, line)
        if source:
            lines.append(f"    {source}")
    lines.append(what)
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if cause is not None:
        lines.append(f"from {_words(cause)}")
    return "\n".join(lines)


def author_frames(traceback: TracebackType | None) -> list[tuple[str, int, TracebackType]]:
    """File, line and frame of each call that is not the SDK's own, from the outside in."""
    frames = []
    while traceback is not None:
        file = traceback.tb_frame.f_code.co_filename
        if not (file.startswith(("<", _SDK)) or "importlib" in file):
            frames.append((shown(file), traceback.tb_lineno, traceback))
        traceback = traceback.tb_next
    return frames


def _words(error: BaseException) -> str:
    text = str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def shown(file: str) -> str:
    """A file's name for people."""
    return os.path.relpath(file, _root) if _root and file.startswith(_root) else file


def _source(file: str, line: int) -> str:
    lines = _remembered.get(file)
    if lines is not None:
        return lines[line - 1].strip() if 0 < line <= len(lines) else ""
    return "" if _remembered else linecache.getline(file, line).strip()
