"""`condu predict`: classify pictures."""

import csv
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from condu_cli.cli.command import Run, command
from condu_cli.cli.options import DeviceOption, ExpertsOption, RouterName, RouterOption, RuleOption
from condu_cli.cli.writing.output import Mode, Output
from condu_cli.cli.writing.wording import omitted_text, percent
from condu_cli.texts import visible

if TYPE_CHECKING:
    from condu_cli.workflows.answering.picture_answers import Answered
    from condu_cli.workflows.answering.predictor import PredictOptions, Predictor
    from condu_cli.workflows.answering.zero_shot import ZeroShot

UNKNOWN = "unknown"
"""Printed instead of the answers for a picture of no learned task."""
BaseOption = Annotated[
    str | None,
    typer.Option(
        metavar="ID",
        help="Base model that answers --labels without a registry; otherwise the registry's. "
        "Default: mini.",
        show_default=False,
    ),
]


def register(app: typer.Typer) -> None:
    """Add this noun's commands to the application."""
    command(app)(predict)


def predict(
    run: Run,
    paths: Annotated[
        list[str],
        typer.Argument(metavar="PATH...", help="Pictures, folders of pictures, or - for stdin."),
    ],
    task: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Ask only this task's expert.", show_default=False),
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,C", help="Your own candidate labels, in words.", show_default=False
        ),
    ] = None,
    experts: ExpertsOption = 1,
    router: RouterOption = RouterName.pooled,
    rule: RuleOption = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            help="Call a picture unknown if at most the share X (such as 0.05) of its task's own "
            "pictures are as unlike the task. Default: never.",
            show_default=False,
        ),
    ] = None,
    top: Annotated[int, typer.Option(metavar="N", min=1, help="Print the N best answers.")] = 3,
    as_csv: Annotated[
        bool, typer.Option("--csv", help="Print one CSV row per picture, with a header.")
    ] = False,
    base: BaseOption = None,
    device: DeviceOption = "auto",
) -> "list[Answered]":
    """Classify pictures, with or without naming a task.

    If no task is named, the router chooses the experts to ask. With --labels, the base model
    answers before anything has been learned, and without a registry. With --threshold, a picture
    that is like no learned task is printed as unknown; in JSON, its field "unknown" is then true,
    and all other fields are as without --threshold.
    """
    from condu_cli.errors import DataError, PartialError, UsageError
    from condu_cli.workflows.answering.picture_answers import STANDARD_INPUT, answer_paths
    from condu_cli.workflows.answering.predictor import PredictOptions

    if as_csv and run.settings.json:
        raise UsageError("use only one of --csv and --json", reason="options-exclude")
    if task is not None and experts != 1:
        raise UsageError(
            "--task names one expert, --experts asks for more", reason="options-exclude"
        )
    options = PredictOptions(
        task,
        _split_labels(labels),
        experts,
        router.value,
        None if rule is None else rule.value,
        threshold,
    )
    predictor = _predictor(run, options, base, device)
    stdin = sys.stdin.buffer.read() if STANDARD_INPUT in paths else b""
    with run.out.progress() as on_progress:
        answered, errors, omitted = answer_paths(predictor, paths, stdin, on_progress)
    if omitted:
        run.out.warning(omitted_text(omitted))
    _print_answers(run.out, answered, top=top, as_csv=as_csv)
    if errors and not answered:
        first = errors[0]
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        raise DataError(first.message + more, reason=first.reason, **first.facts)
    if errors:
        names = "; ".join(error.message for error in errors[:3])
        total = len(errors) + len(answered)
        raise PartialError(
            f"{len(errors)} of {total} inputs failed: {names}",
            reason="inputs-failed",
            failed=len(errors),
            total=total,
        )
    return answered


def _predictor(
    run: Run, options: "PredictOptions", base: str | None, device: str
) -> "Predictor | ZeroShot":
    """Return what answers; warn if it is the base model alone, as the path may be mistyped."""
    from condu_cli.backbone.devices import resolve_device
    from condu_cli.workflows.answering.zero_shot import ZeroShot, predictor_for

    found = predictor_for(run.open_registry, options, base, resolve_device(device))
    if isinstance(found, ZeroShot):
        named_by = f" ({run.registry_named_by})" if run.registry_named_by else ""
        run.out.warning(f"{found.why}{named_by}: base model {found.base_id} answers alone")
        if found.assumption:
            run.out.assumption(found.assumption)
    elif found.unjudged:
        run.out.warning(
            f"no picture of {', '.join(found.unjudged)} will be called unknown: learned by an "
            "older condu, from too few pictures for this threshold, or imported without pictures"
        )
    return found


def _split_labels(text: str | None) -> tuple[str, ...]:
    from condu_cli.errors import UsageError

    if text is None:
        return ()
    labels = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if len(labels) < 2:
        raise UsageError(f"--labels '{text}' holds fewer than two labels", reason="too-few-labels")
    return labels


def _print_answers(out: Output, answered: "list[Answered]", *, top: int, as_csv: bool) -> None:
    if as_csv and out.mode is Mode.HUMAN:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(["path", "label", "probability", "task", "expert", "similarity"])
        writer.writerows(_csv_row(item) for item in answered)
        return
    for item in answered:
        out.document(_record(item, top), lambda o, item=item: _print_one(o, item, top))  # type: ignore[misc]


def _record(item: "Answered", top: int) -> dict[str, Any]:
    best = item.prediction.answers[0]
    return {
        "path": item.path,
        "label": best.label,
        "probability": best.probability,
        "task": best.task,
        "unknown": item.prediction.unknown,
        "top": [
            {"label": a.label, "task": a.task, "probability": a.probability}
            for a in item.prediction.answers[:top]
        ],
        "experts": [{"task": e.task, "similarity": e.similarity} for e in item.prediction.experts],
    }


def _csv_row(item: "Answered") -> list[Any]:
    best = item.prediction.answers[0]
    expert, similarity = "", ""
    if item.prediction.experts:
        nearest = item.prediction.experts[0]
        expert = nearest.task
        similarity = "" if nearest.similarity is None else f"{nearest.similarity:.6f}"
    answer: list[Any] = [best.label, f"{best.probability:.6f}", best.task or ""]
    if item.prediction.unknown:
        answer = [UNKNOWN, "", ""]
    return [
        _harmless(item.path),
        *answer,
        expert,
        similarity,
    ]


def _harmless(cell: str) -> str:
    """Keep a spreadsheet from running a file name as a formula, and a terminal from obeying it."""
    return visible(f"'{cell}" if cell[:1] in "=+@" else cell)


def _print_one(out: Output, item: "Answered", top: int) -> None:
    shown = item.prediction.answers[:top]
    answers = ", ".join(f"{a.label} {percent(a.probability)}" for a in shown)
    voters = ", ".join(
        e.task if e.similarity is None else f"{e.task} (similarity {e.similarity:.2f})"
        for e in item.prediction.experts
    )
    who = f"expert: {voters}" if voters else "base model"
    if item.prediction.unknown:
        answers, who = UNKNOWN, f"nearest: {voters}"
    out.text(f"{item.path}: {answers}  [{who}]")
