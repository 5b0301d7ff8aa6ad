"""What is wrong with a plugin, before it is built: imports plugin.py with the Python of this machine.

In: the plugin's directory. Out: the capabilities that it asks for, or the mistake with the author's own file and line.
`pelton plugin build` runs this first, as it takes a fraction of a second and a build takes many.
"""

from __future__ import annotations

import importlib
import json
import os
import sys

from . import blame, transform
from .declaration import DeclarationError

_CAPABILITIES = ("log", "metrics", "config", "clock", "random")


def check(plugin_dir: str) -> dict[str, object]:
    """`problem`, or `capabilities`."""
    if os.getcwd() != os.sep:
        blame.show_from(os.getcwd())
    file = blame.shown(os.path.join(plugin_dir, "plugin.py"))
    try:
        importlib.import_module("plugin")
    except BaseException as error:
        return {"problem": _words(error, file)}
    if transform.exported is None:
        return {"problem": f"{file}: it exports nothing; end it with `export(YourTransform)`"}
    return {"capabilities": [name for name in _CAPABILITIES if f"{__package__}.{name}" in sys.modules]}


def _words(error: BaseException, plugin_file: str) -> str:
    if isinstance(error, SyntaxError) and error.filename:
        place = f"{blame.shown(error.filename)}:{error.lineno}:{error.offset}"
        shown = f"\n    {(error.text or '').strip()}" if error.text else ""
        version = ".".join(map(str, sys.version_info[:2]))
        return f"{place}: {type(error).__name__}: {error.msg}{shown}\n  (read by Python {version}, {sys.executable})"
    if isinstance(error, DeclarationError):
        lines = [blame.shown(line) for line in str(error).split("\n")]
        if lines[0].split(":")[0].endswith(".py"):
            return "\n".join(lines)
        frames = blame.author_frames(error.__traceback__)
        file, line = frames[-1][:2] if frames else (plugin_file, 1)
        return f"{file}:{line}: " + "\n".join(lines)
    told = blame.told(error)
    if isinstance(error, ModuleNotFoundError) and error.name:
        package = error.name.split(".")[0]
        told += (
            f"\na package goes into the plugin's `vendor/`, if it is pure Python: pip install --target vendor {package}"
        )
    return told


def main(plugin_dir: str, report: str) -> None:
    """Writes what was found to a file, as JSON: what a plugin prints does not disturb it."""
    with open(report, "w", encoding="utf-8") as file:
        json.dump(check(plugin_dir), file)
