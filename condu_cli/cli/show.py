"""`condu show`: one task or one session in detail."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from condu_cli.cli.command import Run, command
from condu_cli.cli.writing.codec_words import (
    StateWords,
    figure,
    key_name,
    keys_of,
    options_line,
    words_of,
)
from condu_cli.cli.writing.output import Output
from condu_cli.cli.writing.wording import method_line, percent, session_name, stages_line, when

if TYPE_CHECKING:
    from condu_cli.registry.manifest import Session, TaskEntry
    from condu_cli.registry.repository import Registry
    from condu_cli.workflows.sessions.comparing import TaskMoment


def register(app: typer.Typer) -> None:
    """Add this noun's commands to the application."""
    command(app)(show)


def show(
    run: Run,
    name: Annotated[
        str,
        typer.Argument(metavar="TASK|SESSION", help="A task of HEAD, or a session: id, tag, @~N."),
    ] = "@",
) -> None:
    """Show one task or one session in detail.

    For a task: its recipe, classes and blobs, and how each later session changed its expert.
    """

    from condu_cli.workflows.opening.paradigms import summary_of
    from condu_cli.workflows.sessions.comparing import task_history

    registry = run.open_registry()
    head = registry.head()
    known = {} if head is None else {entry.name: entry for entry in head.entries}
    if head is not None and name in known:
        entry = known[name]
        moments = task_history([head, *registry.ancestors(head)], entry)
        folder = registry.folder_of(entry)
        record = {
            **entry.to_json(),
            "folder": folder,
            "method": summary_of(registry.config)._asdict(),
            "history": [moment.to_json() for moment in moments],
        }

        def human(out: Output) -> None:
            words = words_of(registry.config, head)
            _print_task(out, entry, folder, method_line(summary_of(registry.config)), words)
            _print_moments(out, moments)

        run.out.document(record, human)
        return
    session = _session_or_task_hint(registry, name)
    words = words_of(registry.config, session)
    run.out.document(
        {"session": session.id, **session.manifest()},
        lambda out: _print_session(out, session, words),
    )


def _session_or_task_hint(registry: "Registry", name: str) -> "Session":
    from condu_cli.errors import NotFoundError

    try:
        session = registry.resolve(name)
    except NotFoundError as exc:
        raise NotFoundError(
            f"there is no task and no session called '{name}'",
            reason="no-such-task-or-session",
            name=name,
        ) from exc
    if session is None and registry.session_ids():
        raise NotFoundError(
            f"'{name}' is the empty registry, before the first session",
            reason="before-first-session",
            name=name,
        )
    if session is None:
        raise NotFoundError("nothing has been learned yet", reason="no-tasks")
    return session


def _print_moments(out: Output, moments: "list[TaskMoment]") -> None:
    keys = keys_of((m.record for m in moments), listed=True)
    rows = [
        [
            session_name(m.session),
            f"{m.kind} {m.changed_by}",
            percent(m.drift),
            *(figure(m.record, key, 4) for key in keys),
            when(m.created_at),
        ]
        for m in moments
    ]
    columns = ["session", "by", ">drift", *(f">{key_name(key)}" for key in keys), "created"]
    out.table(columns, rows, title="history, newest first")


def _print_task(
    out: Output, entry: "TaskEntry", folder: str | None, method: str, words: StateWords
) -> None:
    training = dict(entry.expert.training)
    recipe = training.get("recipe", {})
    lines = {
        "task": entry.name,
        "learned in": session_name(entry.learned_in),
        "classes": f"{len(entry.expert.classes)}: {_some(entry.expert.classes)}",
        "templates": _some(entry.expert.templates),
        "classifier": "class texts" if entry.expert.head is None else "a head beside the model",
        "pictures": _pictures(training, folder),
        "method": method,
        "preset": _preset(training.get("preset")),
        "recipe": ", ".join(f"{key} {value}" for key, value in recipe.items()),
        **({"stages": stages_line(training["stages"])} if "stages" in training else {}),
        "final loss": _loss(training.get("final_loss")),
        **{key_name(key): figure(entry.record, key, 6) for key in keys_of([entry.record])},
        **_own_options(entry),
        "drift": percent(entry.drift),
        f"{words.part} blob": entry.part,
        "prototype blob": entry.expert.prototypes,
        **({} if entry.expert.head is None else {"head blob": entry.expert.head}),
    }
    for key, value in lines.items():
        out.text(f"{key:17} {value}")


def _pictures(training: dict[str, Any], folder: str | None) -> str:
    count = training.get("train_images", 0)
    where = folder or training.get("data") or "a folder on another machine"
    held_out = training.get("validation_images", 0)
    beside = f" and {held_out} held out" if held_out else ""
    learned = f"{count}{beside}, from {where} ({training.get('split', '?')})" if count else "none"
    imported = training.get("imported_from")
    return f"{learned}; imported from {imported}" if imported else learned


def _preset(record: dict[str, Any] | None) -> str:
    """Name the preset, and the values that replaced its own."""
    if not record:
        return "-"
    given = ", ".join(record.get("overridden", ()))
    return str(record.get("name", "-")) + (f"; given: {given}" if given else "")


def _loss(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _print_session(out: Output, session: "Session", words: StateWords) -> None:
    lines = {
        "session": session.id,
        "parent": session.parent or "none",
        "kind": f"{session.kind} {session.task}",
        "created": when(session.created_at),
        words.shared: session.shared or "none",
        **_own_codec(session),
        "tasks": ", ".join(entry.name for entry in session.entries) or "none",
    }
    for key, value in lines.items():
        out.text(f"{key:14} {value}")


def _own_codec(session: "Session") -> dict[str, str]:
    own = session.codec
    return {} if own is None else {"codec": options_line(own.name, own.options)}


def _own_options(entry: "TaskEntry") -> dict[str, str]:
    own = entry.codec_options
    return {"codec options": ", ".join(f"{k} {v}" for k, v in own.items())} if own else {}


def _some(values: tuple[str, ...], limit: int = 5) -> str:
    rest = f", … ({len(values) - limit} more)" if len(values) > limit else ""
    return ", ".join(values[:limit]) + rest
