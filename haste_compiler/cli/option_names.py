"""Errors in the words of the command line: arguments of the Python interface by the options that they come from."""

from __future__ import annotations

import re

import click


def in_option_names(message: str, command: click.Command | None) -> str:
    """A message with the names of a command's options in the place of those of their Python arguments.

    Names that are words of English too are replaced where the message begins with them.

    Args:
        message: of an error.
        command: that was running; None: the message stays.
    """
    for parameter in command.params if command else ():
        if not isinstance(parameter, click.Option) or parameter.name is None:
            continue
        flag = max(parameter.opts, key=len)
        if "_" in parameter.name:
            message = re.sub(rf"(?<![\w.-]){parameter.name}\b(?!\.)", flag, message)
        else:
            message = re.sub(rf"^{parameter.name}(?=(=| is | must |: ))", flag, message)
    return message
