"""Capability `random`: chance as a function of the record, so that a replay sees the same. Not for secrets.

if random.generator().fraction() < 0.01:
    return Step.keep()
"""

from . import _host
from ._generator import Generator

__all__ = ["Generator", "generator", "seed"]

_random = _host.capability("random")


def seed() -> int:
    """64 bits made of the current record's topic, partition and offset: a seed for a generator of your choice. Only
    within `apply`."""
    return _random.seed(_host.current_row("random"))


def generator() -> Generator:
    """A generator seeded by the current record. Each call begins anew, with the same numbers. Only within `apply`."""
    return Generator(seed())
