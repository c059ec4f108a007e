"""Whether others could have written a file or folder."""

from __future__ import annotations

import os
import stat

_ROOT = 0
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def distrust(status: os.stat_result) -> str | None:
    """Why what an open descriptor leads to isn't to be trusted, in words; None: only the user, or root, writes it."""
    if status.st_uid not in (os.geteuid(), _ROOT):
        return f"it belongs to user {status.st_uid}, and this process to user {os.geteuid()}"
    if status.st_mode & _OTHERS_WRITE:
        return f"others can write to it (mode {stat.S_IMODE(status.st_mode):04o})"
    return None
