"""What is wrong with the cache, said in one line and once a process: the network is compiled all the same."""

from __future__ import annotations

import logging

log = logging.getLogger(__name__)

_said: set[str] = set()


def say_once(message: str) -> None:
    """Warn, unless this was said before."""
    if message not in _said:
        _said.add(message)
        log.warning("%s", message)
