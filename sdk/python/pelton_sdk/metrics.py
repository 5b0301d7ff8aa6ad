"""Capability `metrics`: numbers for the operator. Names are lower case with underscores. Updates are held until the batch
succeeds, so that a retried batch counts once."""

from . import _host

_metrics = _host.capability("metrics")


def count(name: str, value: int = 1) -> None:
    """Adds to a counter."""
    _metrics.count(name, value)


def gauge(name: str, value: float) -> None:
    """Sets a gauge."""
    _metrics.gauge(name, value)


def observe(name: str, value: float) -> None:
    """Observes a value in a histogram."""
    _metrics.observe(name, value)
