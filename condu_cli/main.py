"""The `condu` program: the Typer application and the one error boundary."""

import errno
import os
import sys
from collections.abc import Sequence
from io import TextIOWrapper
from itertools import pairwise, takewhile
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from condu_cli import __version__
from condu_cli.cli import (
    bases,
    demo,
    history,
    installation,
    learn,
    predict,
    registries,
    show,
    tasks,
    transfers,
    upkeep,
)
from condu_cli.cli.command import (
    DryRunOption,
    JsonOption,
    QuietOption,
    RegistryOption,
    Settings,
    YesOption,
)
from condu_cli.cli.groups import arrange
from condu_cli.cli.writing.output import Mode, Output
from condu_cli.cli.writing.streams import silence
from condu_cli.errors import ConduError, InterruptedByUserError, UsageError

DEBUG_VARIABLE = "CONDU_DEBUG"
MAY_BE_EMPTY = ("--exact",)
"""Options whose value may be an empty list."""
OUTPUT_ERRORS = (errno.ENOSPC, errno.EIO, errno.EBADF)
"""Errors of writing to standard output; those of other files carry a file name."""

app = typer.Typer(
    name="condu",
    help="Teach one CLIP model many image tasks and forget none of them.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="First steps: condu demo, then condu learn --task NAME --data DIR.",
)
NOUNS = (
    *(registries, bases, tasks, learn, predict, history, show),
    *(upkeep, transfers, installation, demo),
)
for noun in NOUNS:
    noun.register(app)
arrange(app)


def _show_version(value: bool) -> None:
    if value:
        typer.echo(f"condu {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    ctx: typer.Context,
    registry: RegistryOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    ctx.obj = Settings(registry, json, quiet, yes, dry_run)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the program and exit with its exit code; tracebacks need CONDU_DEBUG=1."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    mode = Mode.JSON if "--json" in given else Mode.HUMAN
    _prepare_streams()
    try:
        _refuse_empty(given)
        # Not `app(given)`: Typer's own main turns Ctrl-C, a broken pipe and `typer.Exit` into its
        # own return values and exit codes, so that this boundary would never see them.
        program = typer.main.get_command(app)
        with program.make_context("condu", list(given)) as context:
            program.invoke(context)
        sys.stdout.flush()
    except typer.Exit as exc:
        sys.exit(exc.exit_code)
    except BrokenPipeError:
        # The reader closed the pipe (`condu log | head`).
        silence(sys.stdout)
        sys.exit(0)
    except SystemExit as exc:  # rich exits like this on a broken pipe
        sys.exit(0 if isinstance(exc.__context__, BrokenPipeError) else exc.code)
    except (Exception, KeyboardInterrupt) as exc:
        if isinstance(exc, typer.TyperException) and not exc.format_message():
            sys.exit(UsageError.exit_code)  # no arguments at all: the help was printed
        if os.environ.get(DEBUG_VARIABLE) == "1":
            raise
        expected = _as_condu_error(exc)
        if expected.reason == "output-failed":
            silence(sys.stdout)
        Output(mode, registry=_named_registry(given)).error(expected)
        sys.exit(expected.exit_code)
    sys.exit(0)


def _refuse_empty(given: Sequence[str]) -> None:
    """Refuse empty values, which a shell makes of unset variables: a path would be the folder.

    Raises:
        UsageError: there is one where it makes no sense.

    """
    options = list(takewhile(lambda argument: argument != "--", given))
    for option in options:
        name, equals, value = option.partition("=")
        if name.startswith("--") and equals and not value and name not in MAY_BE_EMPTY:
            raise UsageError(f"the value of {name} is empty", reason="value-empty")
    for before, value in pairwise(["", *given]):
        if not value and before not in MAY_BE_EMPTY:
            where = f"after {before}" if before.startswith("-") else "among the arguments"
            raise UsageError(f"a value is empty, {where}", reason="value-empty")


def _named_registry(given: Sequence[str]) -> Path | None:
    """What --registry named, for hints to repeat; read here, as a failure may precede parsing."""
    options = list(takewhile(lambda argument: argument != "--", given))
    named = [value for option, value in pairwise(options) if option == "--registry"]
    named += [o.removeprefix("--registry=") for o in options if o.startswith("--registry=")]
    return Path(named[-1]) if named else None


def _prepare_streams() -> None:
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the parent process: discard
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        # A file name need not be valid text, and a terminal may lack a character.
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _as_condu_error(exc: BaseException) -> ConduError:
    if isinstance(exc, ConduError):
        return exc
    if isinstance(exc, (KeyboardInterrupt, typer.Abort)):
        return InterruptedByUserError("interrupted", reason="interrupted")
    if isinstance(exc, typer.TyperException):
        message = " ".join(exc.format_message().split())
        return _usage_error(message, exc)
    if isinstance(exc, OSError) and exc.filename is None and exc.errno in OUTPUT_ERRORS:
        return ConduError(f"the output cannot be written: {exc.strerror}", reason="output-failed")
    lines = str(exc).strip().splitlines()
    return ConduError(
        f"unexpected {type(exc).__name__}: {lines[0] if lines else 'no message'}",
        reason="unexpected",
        variable=DEBUG_VARIABLE,
    )


def _usage_error(message: str, exc: typer.TyperException) -> UsageError:
    """Turn Typer's error into ours; name the commands that do have the option, if any."""
    context, option = getattr(exc, "ctx", None), getattr(exc, "option_name", None)
    if context is None:
        return UsageError(message, reason="usage", help_command="condu --help")
    commands = context.find_root().command.commands.items()
    takers = [name for name, taker in commands if any(option in p.opts for p in taker.params)]
    if takers == ["init"]:
        return UsageError(message, reason="option-of-init", option=option)
    help_command = f"{context.command_path} --help"
    if not takers:
        return UsageError(message, reason="usage", help_command=help_command)
    return UsageError(
        message,
        reason="option-of-others",
        option=option,
        commands=takers,
        help_command=help_command,
    )
