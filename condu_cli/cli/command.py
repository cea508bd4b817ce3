"""What every command gets: the global options, the output sink, and the registry's path.

`command` registers a function as a Typer command and adds the global options to its own, so
that they work both before and after the subcommand.
"""

import inspect
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from condu_cli.cli.writing.output import Mode, Output
from condu_cli.errors import ConduError, IntegrityError, PartialError, UsageError

if TYPE_CHECKING:
    from condu_cli.registry.repository import Registry

Function = TypeVar("Function", bound=Callable[..., Any])
PANEL = "Global options"

RegistryOption = Annotated[
    Path | None,
    typer.Option(
        "--registry",
        metavar="PATH",
        help="The registry's folder. Default: $CONDU_REGISTRY, else the user's data folder.",
        rich_help_panel=PANEL,
        show_default=False,
    ),
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print results as JSON.", rich_help_panel=PANEL)
]
QuietOption = Annotated[
    bool,
    typer.Option("-q", "--quiet", help="Print results and errors only.", rich_help_panel=PANEL),
]
YesOption = Annotated[
    bool, typer.Option("-y", "--yes", help="Answer yes to every question.", rich_help_panel=PANEL)
]
DryRunOption = Annotated[
    bool,
    typer.Option(
        "-n", "--dry-run", help="Print what would be done; change nothing.", rich_help_panel=PANEL
    ),
]
LongDryRunOption = Annotated[
    bool,
    typer.Option(
        "--dry-run", help="Print what would be done; change nothing.", rich_help_panel=PANEL
    ),
]


@dataclass(frozen=True)
class Settings:
    """The global options."""

    registry: Path | None = None
    json: bool = False
    quiet: bool = False
    yes: bool = False
    dry_run: bool = False


@dataclass(frozen=True)
class Run:
    """One run of one command."""

    settings: Settings
    out: Output

    @property
    def registry_path(self) -> Path:
        """The registry's folder, resolved from the option, the environment or the platform."""
        from condu_cli.registry.files.paths import resolve_registry_path

        return resolve_registry_path(self.settings.registry)

    @property
    def registry_named_by(self) -> str:
        """What named the registry's folder: the option, the environment variable, or nothing."""
        from condu_cli.registry.files.paths import ENVIRONMENT_VARIABLE

        if self.settings.registry is not None:
            return "--registry"
        return ENVIRONMENT_VARIABLE if os.environ.get(ENVIRONMENT_VARIABLE) else ""

    def open_registry(self) -> "Registry":
        """Open the registry; raises NoRegistryError if there is none."""
        from condu_cli.registry.repository import Registry

        registry = Registry.open(self.registry_path, notify=self.out.note)
        registry.on_wait = lambda by: self.out.note(f"waiting: the registry is locked by {by}")
        return registry

    def inside(self, registry: Path, *, silent: bool) -> "Run":
        """Return a run for another command on another registry, nested in this one."""
        settings = replace(self.settings, registry=registry, dry_run=False)
        return Run(settings, Output(Mode.SILENT)) if silent else new_run(settings)


def new_run(settings: Settings, *, lasting: bool = False) -> Run:
    """Build a run from the global options; `lasting` as for `Output`."""
    mode = Mode.JSON if settings.json else Mode.HUMAN
    out = Output(mode, quiet=settings.quiet, registry=settings.registry, lasting=lasting)
    return Run(settings, out)


def command(
    app: typer.Typer,
    name: str | None = None,
    *,
    changes: bool = False,
    writes: bool = False,
    short_n: bool = True,
) -> Callable[[Function], Function]:
    """Register a function whose first parameter is a `Run`.

    `changes`: it changes the registry, so it gets `--dry-run`. `writes`: it writes but has no dry
    run, so it refuses the global option. `short_n`: False if `-n` means something else.
    """

    def register(function: Function) -> Function:
        own = list(inspect.signature(function).parameters.values())[1:]
        shared = _global_parameters(changes=changes, short_n=short_n)

        def run_command(ctx: typer.Context, **values: Any) -> Any:
            given = {p.name: values.pop(p.name) for p in shared}
            settings = _merge(ctx.obj, given)
            if writes and settings.dry_run:
                raise _no_dry_run(name or function.__name__)
            # What was changed stays changed, and succeeded, whatever becomes of its report.
            run = new_run(settings, lasting=(changes or writes) and not settings.dry_run)
            try:
                return function(run, **values)
            except ConduError as exc:
                _explain_corruption(run, exc)
                raise

        context = inspect.Parameter("ctx", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
        keyword = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in (*own, *shared)]
        parameters = [context, *keyword]
        run_command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run_command.__annotations__ = {p.name: p.annotation for p in parameters}
        run_command.__doc__ = function.__doc__
        app.command(name or function.__name__)(run_command)
        return function

    return register


def _explain_corruption(run: Run, exc: ConduError) -> None:
    """Add to an error about a corrupt file which sessions need it, which the library does not."""
    if not isinstance(exc, (IntegrityError, PartialError)):
        return
    from condu_cli.cli.hints import corrupt_files

    if exc.reason in corrupt_files.HINTS:  # asked first: the next import takes a while
        from condu_cli.workflows.sessions.corruption import explain_at

        explain_at(Path(str(exc.facts.get("demo_registry", run.registry_path))), exc)


def _no_dry_run(name: str) -> UsageError:
    return UsageError(f"{name} does not support --dry-run", reason="no-dry-run", command=name)


def _global_parameters(*, changes: bool, short_n: bool) -> list[inspect.Parameter]:
    kinds: dict[str, tuple[Any, Any]] = {
        "registry": (RegistryOption, None),
        "json": (JsonOption, False),
        "quiet": (QuietOption, False),
        "yes": (YesOption, False),
    }
    if changes:
        kinds["dry_run"] = (DryRunOption if short_n else LongDryRunOption, False)
    return [
        inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation
        )
        for name, (annotation, default) in kinds.items()
    ]


def _merge(root: Settings | None, given: dict[str, Any]) -> Settings:
    """Merge the options; those after the subcommand override those before it."""
    root = root or Settings()
    return replace(root, **{name: value for name, value in given.items() if value})
