"""What the command line makes of its options."""

from typing import Any

import click

from haste_compiler.cli.options import compile_options


def config_of(*arguments: str) -> Any:
    """The configuration that compiling is given with some options."""

    @click.command()
    @compile_options()
    def command(how: Any) -> Any:
        return how["config"]

    return command.main(list(arguments), standalone_mode=False)
