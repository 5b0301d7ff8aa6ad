"""The one seam to the host: in a component its imports, elsewhere what the test driver answers.

Each capability is looked up by the module of its name alone, so that what a plugin does not use does not become an
import of its component.
"""

from importlib import import_module
from typing import Any

NO_ROW = -1

# The row that the plugin is looking at; NO_ROW outside of a batch.
row = NO_ROW

# What answers natively: the test driver puts one object a capability here.
native: dict[str, Any] = {}


def is_component() -> bool:
    """Whether this runs inside of WebAssembly, or is made ready for it."""
    try:
        import_module("wit_world")
    except ModuleNotFoundError:
        return False
    return True


def current_row(capability: str) -> int:
    """The row that the plugin is looking at."""
    if row == NO_ROW:
        raise RuntimeError(f"{capability} belongs to a record, and there is none outside of `apply`")
    return row


class _Native:
    """A capability outside of a component: whatever the test driver has put there."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, function: str) -> Any:
        try:
            return getattr(native[self._name], function)
        except KeyError:
            raise RuntimeError(
                f"{self._name} is answered by the host: in a test, run records through pelton_sdk.testing"
            ) from None


def capability(name: str) -> Any:
    """The functions of a capability, by the names of `wit/capabilities.wit`."""
    if is_component():
        return import_module(f"wit_world.imports.{name}")
    return _Native(name)
