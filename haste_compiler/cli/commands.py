"""The group of commands, and what becomes of errors."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from functools import partial

import click
from click.exceptions import NoArgsIsHelpError

from haste_compiler import __version__
from haste_compiler.cli.bench import bench
from haste_compiler.cli.cache import cache
from haste_compiler.cli.compile import compile
from haste_compiler.cli.demo import demo
from haste_compiler.cli.energy import energy
from haste_compiler.cli.info import info
from haste_compiler.cli.methods import MethodsListed
from haste_compiler.cli.option_names import in_option_names
from haste_compiler.cli.output import FellShort
from haste_compiler.cli.report import report
from haste_compiler.cli.search import search
from haste_compiler.cli.stream import stream
from haste_compiler.cli.tune import tune
from haste_compiler.cli.validate import validate
from haste_compiler.cli.watch import watch
from haste_compiler.errors import HasteError, ValidationError

HOLDS, FELL_SHORT, FAILED = 0, 1, 2


class _Group(MethodsListed, click.Group):
    """The commands, and below their help the methods."""


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, "--version", prog_name="haste")
def haste() -> None:
    """Compile pretrained CNNs so that they do less arithmetic on every input. No training, no data.

    \b
    Examples:
      haste demo
      haste bench haste_compiler.demo:load_network --input 8x1x32x32
      haste compile torchvision:resnet18 -o resnet18.haste
      haste info resnet18.haste
      haste validate torchvision:resnet18 --images photographs/ --min-agreement 0.95
      haste report torchvision:resnet18 --images photographs/ -o report.html
      haste search torchvision:resnet18 --images photographs/ --max-accuracy-drop 0.01 -o best.yaml
      haste compile torchvision:resnet18 --config best.yaml -o resnet18.haste
      haste stream torchvision:resnet18 street.mp4 --size 224x288 --tolerance 0.2
      haste watch torchvision:resnet18 --images photographs/

    \b
    MODEL is one of
      torchvision:NAME    pretrained, from torchvision (--weights random: without its weights)
      timm:NAME           the same from timm
      FILE.pt2            what torch.export.save wrote
      FILE.onnx           an ONNX network (pip install "haste-compiler[onnx]")
      FILE.py:FACTORY     a function without arguments that returns a torch.nn.Module, or such a module;
                          also PACKAGE.MODULE:FACTORY; haste_compiler.demo:load_network comes with this package

    \b
    Exit codes: 0 it holds; 1 the compiled network fell short of a limit or differs from the original;
    2 wrong usage, or an error. Results go to standard output (--json: for machines), all else to
    standard error.
    """


_TRACEBACK = "--traceback"

for command in (haste, compile, validate, report, search, tune, bench, stream, watch, energy, info, cache, demo):
    help = "Show where in the code an error arose."
    command.params.append(click.Option([_TRACEBACK], is_flag=True, expose_value=False, help=help))
    if command is not haste:
        haste.add_command(command)


def run_command(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Args:
        arguments: without the program's name; None: those of the process.

    Raises:
        KeyboardInterrupt: it was interrupted.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    command = next((haste.commands[word] for word in given if word in haste.commands), None)
    fail = partial(_fail, command, _TRACEBACK in given)
    try:
        return int(haste.main(given, prog_name="haste", standalone_mode=False) or HOLDS)
    except click.Abort as abort:
        raise KeyboardInterrupt from abort
    except NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return FAILED
    except click.UsageError as error:
        where = f" (see {error.ctx.command_path} --help)" if error.ctx else ""
        return fail(error.format_message() + where, FAILED)
    except (click.ClickException, OSError) as error:
        return fail(error.format_message() if isinstance(error, click.ClickException) else str(error), FAILED)
    except (FellShort, ValidationError) as error:
        return fail(str(error), FELL_SHORT)
    except HasteError as error:
        return fail(str(error), FAILED)
    except Exception:
        traceback.print_exc()
        return FAILED


def _fail(command: click.Command | None, traced: bool, message: str, code: int) -> int:
    """Say what went wrong, in a line, of the exception that is being handled."""
    if traced:
        traceback.print_exc()
    if message:
        click.echo(f"error: {in_option_names(' '.join(message.split()), command)}", err=True)
    return code
