"""The methods that there are, in a command's help."""

from __future__ import annotations

import click

from haste_compiler.methods.registry import method_summaries


class MethodsListed(click.Command):
    """A command whose help ends with the methods, a line each."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write them where click has the text after the options."""
        with formatter.section("Methods"):
            formatter.write_dl(list(method_summaries().items()))
