"""The one output sink: results on stdout, everything else on stderr, in one of three modes.

human    rich tables and text; progress bars on a terminal, plain lines elsewhere
json     one JSON document per result (JSON Lines for streams); only errors and warnings on stderr
silent   nothing at all; for commands that run inside another command
"""

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import Enum
from typing import TYPE_CHECKING, Any

from condu_cli.cli.writing.streams import Lasting
from condu_cli.texts import visible

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

    from condu_cli.errors import ConduError
    from condu_cli.workflows.progress import Progress, ProgressCallback

PIPE_WIDTH = 160
"""Columns for tables that do not go to a terminal."""
PLAIN_PROGRESS_SECONDS = 10.0
"""Shortest time between progress lines where stderr is not a terminal."""


_ALWAYS_SHOWN = frozenset({"holder", "warning"})
"""Figures of a progress event that are always shown."""


class Mode(Enum):
    """Who reads the output."""

    HUMAN = "human"
    JSON = "json"
    SILENT = "silent"


class Output:
    """The sink for everything that a command prints."""

    def __init__(
        self,
        mode: Mode = Mode.HUMAN,
        *,
        quiet: bool = False,
        registry: "Path | None" = None,
        lasting: bool = False,
    ) -> None:
        """`registry`: the folder that --registry named; commands in hints repeat it.

        `lasting`: the command goes on, and succeeds, even if its result cannot be printed. What
        goes to stderr may always be lost.
        """
        self.mode = mode
        self.quiet = quiet
        self._registry = registry
        self._lasting = lasting

    # Results, on stdout

    def document(self, data: Any, human: Callable[["Output"], None]) -> None:
        """Print one result: `data` as one line of JSON, or whatever `human` prints."""
        if self.mode is Mode.JSON:
            print(json_line(data), file=self._out, flush=True)
        elif self.mode is Mode.HUMAN:
            human(self)

    def text(self, line: str) -> None:
        """Print a line of a human result, or several."""
        if self.mode is Mode.HUMAN:
            _print(self._stdout(), _visible_lines(line))

    def table(
        self, columns: Sequence[str], rows: Sequence[Sequence[str]], *, title: str | None = None
    ) -> None:
        """Print a table of a human result; a column whose name starts with `>` is right-aligned."""
        if self.mode is not Mode.HUMAN:
            return
        from rich.box import SIMPLE_HEAD
        from rich.table import Table
        from rich.text import Text

        above = None if title is None else Text(visible(title))
        table = Table(title=above, box=SIMPLE_HEAD, title_justify="left", pad_edge=False)
        for name in columns:
            right = name.startswith(">")
            heading = Text(visible(name.removeprefix(">")))
            table.add_column(heading, justify="right" if right else "left")
        for row in rows:
            table.add_row(*(Text(visible(cell)) for cell in row))
        self._stdout().print(table)

    # Everything else, on stderr

    def note(self, line: str) -> None:
        """Say what happened or how to undo it."""
        if self.mode is Mode.HUMAN and not self.quiet:
            _print(self._stderr(), _visible_lines(line))

    def assumption(self, line: str) -> None:
        """Say what was assumed of a base model, and how to state it."""
        self.warning(line)
        self.hint(
            "State it in open_clip_config.json beside the checkpoint, or create the registry with "
            "--image-mean and --image-std; see condu init -h"
        )

    def hint(self, template: str, **facts: object) -> None:
        """Suggest a command to run next; the template is one like those in `cli/hints`."""
        if self.mode is Mode.HUMAN and not self.quiet:
            line = f"hint: {self.filled(template, **facts)}"
            _print(self._stderr(), _visible_lines(line), style="dim")

    def filled(self, template: str, **facts: object) -> str:
        """Fill a template as `hint` does: `{here}` is --registry where the user gave it."""
        from condu_cli.cli.hints.templates import filled

        return filled(template, facts, self._registry)

    def warning(self, line: str) -> None:
        """Print a problem that did not stop the command."""
        if self.mode is Mode.HUMAN:
            _print(self._stderr(), f"warning: {visible(line)}", style="yellow")
        elif self.mode is Mode.JSON:
            print(json.dumps({"warning": line}), file=Lasting(sys.stderr), flush=True)

    def error(self, exc: "ConduError") -> None:
        """Print an error: one line and a hint, or the contract's JSON object."""
        from condu_cli.cli.hints.making import hint_of, message_of

        message, hint = message_of(exc), hint_of(exc, self._registry)
        if self.mode is Mode.JSON:
            record = {
                "code": exc.exit_code,
                "reason": exc.reason,
                "message": message,
                "hint": hint,
            }
            print(json.dumps({"error": record}), file=Lasting(sys.stderr), flush=True)
            return
        _print(self._stderr(), f"error: {visible(message)}", style="red")
        if hint:
            _print(self._stderr(), f"hint: {visible(hint)}")

    def confirm(self, question: str, *, assume: bool, show: Callable[["Output"], None]) -> bool:
        """Ask before something that cannot be undone; `show` says what.

        Raises UsageError if there is no terminal to ask on and `assume` (--yes) is False.
        """
        from condu_cli.errors import UsageError

        if assume:
            return True
        if self.mode is not Mode.HUMAN or not sys.stdin.isatty():
            raise UsageError(
                "this cannot be undone and needs a confirmation, but there is no terminal",
                reason="nobody-to-ask",
            )
        show(self)
        _print(self._stderr(), f"{visible(question)} [y/N] ", end="")
        return sys.stdin.readline().strip().lower() in ("y", "yes")

    @contextmanager
    def progress(self, *, json_events: bool = False) -> Iterator["ProgressCallback"]:
        """Yield a callback that shows progress in this mode.

        `json_events`: the command's JSON is a stream of events that ends in its summary.
        """
        if self.mode is Mode.SILENT or self.quiet:
            yield lambda _: None
        elif self.mode is Mode.JSON:
            yield _JsonProgress(self._out) if json_events else lambda _: None
        elif self._stderr().is_terminal:
            with _bar(self._stderr()) as callback:
                yield callback
        else:
            yield _PlainProgress(self.note)

    def _stdout(self) -> "Console":
        return _console(self._out)

    def _stderr(self) -> "Console":
        return _console(Lasting(sys.stderr))

    @property
    def _out(self) -> Any:
        return Lasting(sys.stdout) if self._lasting else sys.stdout


def json_line(data: Any) -> str:
    """Return a value as one line of JSON; what a terminal must not see is escaped in it."""
    line = json.dumps(data, ensure_ascii=False)
    if line.isprintable():
        return line
    return "".join(c if visible(c) == c else f"\\u{ord(c):04x}" for c in line)


def _print(console: "Console", text: str, *, style: str | None = None, end: str = "\n") -> None:
    """Print a text as it is: rich interprets nothing in it and does not wrap it."""
    console.print(
        text, style=style, markup=False, highlight=False, emoji=False, soft_wrap=True, end=end
    )


def _visible_lines(text: str) -> str:
    return "\n".join(visible(line) for line in text.split("\n"))


def _console(file: Any) -> "Console":
    from rich.console import Console

    class PipeConsole(Console):
        """Leave a broken pipe to the error boundary: rich would end the program with code 1."""

        def on_broken_pipe(self) -> None:
            """Raise it again."""
            raise BrokenPipeError

    width = None if file.isatty() else PIPE_WIDTH
    return PipeConsole(file=file, width=width)


def figures_text(figures: Mapping[str, Any]) -> str:
    """Format the figures of a progress event for people."""
    parts = []
    if "loss" in figures:
        parts.append(f"loss {figures['loss']:.3f}")
    if "images_per_second" in figures:
        parts.append(f"{figures['images_per_second']:.0f} images/s")
    if "holder" in figures:
        parts.append(f"the registry is locked by {figures['holder']}")
    if "warning" in figures:
        parts.append(f"warning: {figures['warning']}")
    return ", ".join(parts)


@contextmanager
def _bar(console: "Console") -> Iterator["ProgressCallback"]:
    from rich import progress as rich_progress

    with rich_progress.Progress(
        rich_progress.TextColumn("{task.description:<10}"),
        rich_progress.BarColumn(),
        rich_progress.MofNCompleteColumn(),
        rich_progress.TimeRemainingColumn(),
        rich_progress.TextColumn("{task.fields[figures]}", markup=False),
        console=console,
    ) as bar:
        stages: dict[str, rich_progress.TaskID] = {}

        def show(event: "Progress") -> None:
            if "warning" in event.figures:
                _print(console, visible(figures_text(event.figures)), style="yellow")
                return
            if event.stage not in stages:
                stages[event.stage] = bar.add_task(event.stage, total=event.total, figures="")
            bar.update(
                stages[event.stage],
                completed=event.done,
                total=event.total,
                figures=visible(figures_text(event.figures)),
            )

        yield show


class _Throttle:
    """Let through one event per interval and stage, and each stage's last event.

    `always_last` False: a stage that ends within its first interval is not mentioned.
    """

    def __init__(self, seconds: float, *, always_last: bool) -> None:
        self._seconds = seconds
        self._always_last = always_last
        self._stage = ""
        self._started = self._shown = 0.0

    def passes(self, event: "Progress") -> bool:
        if event.figures.keys() & _ALWAYS_SHOWN:  # the next event may be long in coming
            return True
        now = time.monotonic()
        if event.stage != self._stage:
            self._stage, self._started, self._shown = event.stage, now, now
        mentioned = self._always_last or self._shown > self._started
        if (event.done == event.total and mentioned) or now - self._shown >= self._seconds:
            self._shown = now
            return True
        return False

    def seconds_left(self, event: "Progress") -> float:
        elapsed = time.monotonic() - self._started
        return elapsed * (event.total - event.done) / max(1, event.done)


class _PlainProgress:
    """Lines without animation, for logs and pipes."""

    def __init__(self, note: Callable[[str], None]) -> None:
        self._note = note
        self._throttle = _Throttle(PLAIN_PROGRESS_SECONDS, always_last=False)

    def __call__(self, event: "Progress") -> None:
        if not self._throttle.passes(event):
            return
        if event.figures.keys() & _ALWAYS_SHOWN:
            self._note(f"{event.stage}: {figures_text(event.figures)}")
            return
        parts = [f"{event.stage} {event.done}/{event.total}", figures_text(event.figures)]
        if event.done < event.total:
            parts.append(f"{self._throttle.seconds_left(event):.0f} s left")
        self._note(", ".join(part for part in parts if part))


class _JsonProgress:
    """JSON Lines on stdout, at most one per second and stage."""

    def __init__(self, out: Any) -> None:
        self._out = out
        self._throttle = _Throttle(1.0, always_last=True)

    def __call__(self, event: "Progress") -> None:
        if self._throttle.passes(event):
            record = {"event": event.stage, "done": event.done, "total": event.total}
            print(json.dumps({**record, **event.figures}), file=self._out, flush=True)
