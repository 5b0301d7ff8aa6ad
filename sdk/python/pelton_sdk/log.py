"""Capability `log`: lines for the operator.

    log.warn(f"unusually large: {total}")

Lines of a failed attempt are kept and travel with the dead letter. Long lines are cut, floods are counted.
"""

from . import _host

_log = _host.capability("log")

# By the numbers of the interface; a component wants its own enum.
_DEBUG, _INFO, _WARN, _ERROR = tuple(_log.Level) if _host.is_component() else ("debug", "info", "warn", "error")


def debug(message: object) -> None:
    """Writes a line for the author."""
    _log.write(_DEBUG, str(message))


def info(message: object) -> None:
    """Writes a line that is worth knowing."""
    _log.write(_INFO, str(message))


def warn(message: object) -> None:
    """Writes a line that somebody should look at."""
    _log.write(_WARN, str(message))


def error(message: object) -> None:
    """Writes a line about something that failed."""
    _log.write(_ERROR, str(message))
