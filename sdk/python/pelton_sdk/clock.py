"""Capability `clock`: time as a function of the record, so that a replay sees the same."""

from . import _host

_clock = _host.capability("clock")


def now_ms() -> int:
    """The current record's timestamp in milliseconds since 1970-01-01T00:00:00Z; -1 where it has none. Only within
    `apply`."""
    return _clock.time(_host.current_row("clock"))
