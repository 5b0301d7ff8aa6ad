"""Capability `config`: the `config:` block by key, for code that is far from the plugin's class. A plugin that takes its
configuration as an argument does not need it."""

import json
from typing import Any

from . import _host

_config = _host.capability("config")


def get(key: str) -> Any:
    """The value of a top-level key; None where it is absent."""
    text = _config.get(key)
    return None if text is None else json.loads(text)
