"""`condu demo`: the main job from start to end on embedded data, in about two minutes."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from condu_cli.cli import history, learn, predict, registries, tasks
from condu_cli.cli.command import Run, command
from condu_cli.cli.writing.output import Mode, Output
from condu_cli.cli.writing.wording import percent
from condu_cli.errors import ConduError, InterruptedByUserError, UsageError

if TYPE_CHECKING:
    from condu_cli.workflows.answering.picture_answers import Answered

DIGITS: dict[str, Any] = {"shots": 60}
SHAPES: dict[str, Any] = {"shots": 30, "quick": True}
"""Enough to learn the two tasks well, and short enough for a tour."""


def register(app: typer.Typer) -> None:
    """Add this noun's commands to the application."""
    command(app)(demo)


def demo(
    run: Run,
    keep: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Keep the demo's registry in DIR. Default: a temporary folder.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Take the tour: learn two tasks, forget none, roll back.

    It uses embedded pictures and takes about two minutes. Your own registry is not touched.
    """
    if keep is not None:
        _refuse_occupied(keep)
    with tempfile.TemporaryDirectory(prefix="condu-demo-") as temporary:
        registry = Path(temporary, "registry") if keep is None else keep
        with _named_in_errors(registry, kept=keep is not None):
            result = Tour(run, registry).take()
    run.out.document(result, lambda out: _farewell(out, result, keep))


def _refuse_occupied(keep: Path) -> None:
    from condu_cli.registry.files.new_folders import is_free

    try:
        free = is_free(keep)
    except OSError:
        return  # creating the registry fails in the same way and says why
    if not free:
        raise UsageError(
            f"cannot keep the demo's registry at {keep}: it exists and is not an empty folder",
            reason="demo-folder-not-free",
            path=keep,
        )


@contextmanager
def _named_in_errors(registry: Path, *, kept: bool) -> Iterator[None]:
    """Add the demo's registry to errors: hints would otherwise name the user's."""
    try:
        yield
    except KeyboardInterrupt:
        raise _interrupted(registry, kept=kept) from None
    except InterruptedByUserError as exc:
        if not kept:  # what it says about going on is no longer possible
            raise _interrupted(registry, kept=kept) from exc
        exc.add(demo_registry=registry)
        raise
    except ConduError as exc:
        exc.add(demo_registry=registry, demo_not_kept=not kept)
        raise


def _interrupted(registry: Path, *, kept: bool) -> InterruptedByUserError:
    if kept:
        return InterruptedByUserError("interrupted", reason="interrupted", demo_registry=registry)
    return InterruptedByUserError("the demo was interrupted", reason="demo-interrupted")


class Tour:
    """The demo's steps; each prints a command and runs it."""

    def __init__(self, run: Run, registry: Path) -> None:
        self._out = run.out
        # With --json the tour is a single document, so the inner commands print nothing.
        self._run = run.inside(registry, silent=run.out.mode is not Mode.HUMAN)
        self._number = 0

    def take(self) -> dict[str, Any]:
        """Run all steps and return the key figures."""
        from condu_cli.data.sources.embedded import embedded_folder

        self._out.text("The demo uses its own registry; yours is not touched.")
        digits, shapes = embedded_folder("digits"), embedded_folder("shapes")
        digit, shape = (
            _first_picture(digits / "test" / "7"),
            _first_picture(shapes / "test" / "star"),
        )
        self._step("A registry holds one base model's experts. Create one for `mini`.", "init")
        registries.init(self._run)
        zero_shot, before = self._learn_digits()
        first_answer = self._ask_silently(digit)
        self._learn_shapes()
        self._predict(digit, shape)
        after = self._evaluate_again(before)
        self._storage()
        same = self._roll_back(digit, first_answer)
        return {
            "digits_zero_shot": zero_shot,
            "digits_before": before,
            "digits_after": after,
            "rollback_restores_predictions": same,
        }

    def _learn_digits(self) -> tuple[float, float]:
        self._step(
            "Teach it scikit-learn's handwritten digits: a head, tuning from there, unify, commit.",
            f"learn --task digits {_as_options(DIGITS)}",
        )
        learn.learn(self._run, task=["digits"], **DIGITS)
        self._step(
            "How good is it on digits that it has not seen, and how good was the base model?",
            "evaluate --task digits --zero-shot",
        )
        result = tasks.evaluate(self._run, task=["digits"], zero_shot=True)[0]
        assert result.zero_shot is not None  # noqa: S101 - it was asked for
        return result.zero_shot, result.accuracy

    def _learn_shapes(self) -> None:
        self._step(
            "Teach it a second task in seconds: generated shapes, a head alone. It does not see "
            "the digits again.",
            f"learn --task shapes {_as_options(SHAPES)}",
        )
        learn.learn(self._run, task=["shapes"], **SHAPES)

    def _predict(self, digit: Path, shape: Path) -> None:
        self._step(
            "Ask about a handwritten seven, naming the task.", f"predict {digit} --task digits"
        )
        predict.predict(self._run, [str(digit)], task="digits")
        self._step(
            "Ask about the seven and a drawn star without naming a task: condu finds the expert.",
            f"predict {digit} {shape}",
        )
        predict.predict(self._run, [str(digit), str(shape)])

    def _evaluate_again(self, before: float) -> float:
        self._step("Was the first task forgotten?", "evaluate")
        results = tasks.evaluate(self._run)
        after = next(r.accuracy for r in results if r.task == "digits")
        self._out.text(f"digits: {percent(before)} before the second task, {percent(after)} after.")
        return after

    def _storage(self) -> None:
        self._step("What is on disk?", "storage-report")
        registries.storage_report(self._run)

    def _roll_back(self, digit: Path, first_answer: "list[Answered]") -> bool:
        """Return whether rollback restores the old answer exactly, and its undo the new one."""
        new_answer = self._ask_silently(digit)
        self._step("Undo the second task. Nothing is deleted.", "rollback")
        history.rollback(self._run)
        tasks.ls(self._run)
        old_is_back = self._ask_silently(digit) == first_answer
        self._step("Bring it back.", "rollback --undo")
        history.rollback(self._run, undo=True)
        new_is_back = self._ask_silently(digit) == new_answer
        if old_is_back and new_is_back:
            self._out.text("Both answers about the seven were restored exactly.")
        return old_is_back and new_is_back

    def _ask_silently(self, digit: Path) -> "list[Answered]":
        silent = self._run.inside(self._run.registry_path, silent=True)
        return predict.predict(silent, [str(digit)], task="digits")

    def _step(self, why: str, command_line: str) -> None:
        self._number += 1
        self._out.text(f"\n{self._number}. {why}\n   $ condu {command_line}\n")


def _as_options(values: dict[str, Any]) -> str:
    """Write keyword arguments as options; True is an option without a value."""
    given = ((f"--{name.replace('_', '-')}", value) for name, value in values.items())
    return " ".join(name if value is True else f"{name} {value}" for name, value in given)


def _first_picture(folder: Path) -> Path:
    return min(folder.iterdir())


def _farewell(out: Output, result: dict[str, Any], keep: Path | None) -> None:
    out.text(
        f"\nDone: digits {percent(result['digits_zero_shot'])} zero-shot, "
        f"{percent(result['digits_before'])} learned, "
        f"{percent(result['digits_after'])} after one more task."
    )
    if keep is not None:
        out.hint("condu log --registry {keep!q}", keep=keep)
    out.hint("your own pictures: condu learn --task NAME --data DIR{here}")
