"""The command line, `tnlib` or `python -m tnlib`. Exit status: 0 done, 1 something failed, 2 a mistake in the call."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import click

from tnlib.study import commands, compress_command, export_command, upkeep
from tnlib.study.parameters import hint


class _Group(click.Group):
    """A group that suggests the command that was meant."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args and self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            raise click.UsageError(f"no command {args[0]!r}{hint(args[0], self.commands)} (tnlib --help lists them)")
        return super().resolve_command(ctx, args)


@click.group(cls=_Group, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version("tnlib"), prog_name="tnlib")
@click.pass_context
def tnlib(ctx: click.Context) -> None:
    """The Tensor Compression Workbook's command line."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


for _command in (*commands.COMMANDS, *compress_command.COMMANDS, *export_command.COMMANDS, *upkeep.COMMANDS):
    tnlib.add_command(_command)


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the arguments, run the command, and turn expected errors into one line."""
    try:
        return int(tnlib.main(argv, prog_name="tnlib", standalone_mode=False) or 0)
    except (KeyboardInterrupt, click.Abort):  # first: an Abort is a RuntimeError
        return _say("interrupted", 130)
    except click.ClickException as error:
        return _say(error.format_message(), 2)
    except (ValueError, TypeError) as error:
        return _say(str(error), 2)
    except (RuntimeError, OSError) as error:
        return _say(str(error), 1)


def _say(message: str, status: int) -> int:
    print(f"tnlib: {' '.join(message.split())}", file=sys.stderr)
    return status
