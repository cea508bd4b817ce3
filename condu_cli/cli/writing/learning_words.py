"""What `learn` says of its plan before training, and of its result."""

from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from condu_cli.cli.writing.output import Mode, Output
from condu_cli.cli.writing.wording import (
    duration,
    omitted_text,
    percent,
    plural,
    size,
    stages_line,
    unreadable_text,
)

if TYPE_CHECKING:
    from condu_cli.data.labelled import LabelledPictures
    from condu_cli.workflows.learning.estimating import Estimate
    from condu_cli.workflows.learning.planning import LearnPlan
    from condu_cli.workflows.learning.summaries import LearnSummary

NAMED_CLASSES = 5
"""Classes to name before training."""


def note_plan(out: Output, plan: "LearnPlan") -> None:
    """Say what will be learned from which pictures, and what of the source is not used."""
    if out.mode is Mode.SILENT:  # another process of the team reads the files and says it
        return
    data = plan.data
    held_out = f" ({len(plan.validation):,} more held out)" if plan.validation else ""
    out.note(
        f"Learning {plan.request.task} from {plural(len(data.train), 'picture')}{held_out} of "
        f"{plural(len(data.class_names), 'class')}: base {plan.base_id}, {_stages_line(plan)}"
    )
    out.note(f"Classes: {_classes_line(plan.drawn.whole)}")
    _warn(out, plan)


def _warn(out: Output, plan: "LearnPlan") -> None:
    """Say what of the source is not used, and which pictures are there twice."""
    from condu_cli.data.class_names import alike
    from condu_cli.data.duplicates import duplicate_lines

    data = plan.data
    if pairs := alike(data.class_names):
        one, other = pairs[0]
        more = f" (and {len(pairs) - 1} more pairs)" if len(pairs) > 1 else ""
        out.warning(f"the classes '{one}' and '{other}' differ only in case or spacing{more}")
    if plan.assumption:
        out.assumption(plan.assumption)
    if data.ignored:
        names = ", ".join(data.ignored_names[:3]) + (" …" if data.ignored > 3 else "")
        out.note(
            f"Ignored {plural(data.ignored, 'file')} that are not pictures of a class: {names}"
        )
    if data.omitted:
        out.warning(omitted_text(data.omitted))
    for line in duplicate_lines(plan.drawn.whole):
        out.warning(line)
    if data.empty_classes:
        out.warning(f"skipped classes without pictures: {', '.join(data.empty_classes)}")


def _classes_line(data: "LabelledPictures") -> str:
    """Name the first classes, with the folder where it is called otherwise, and their pictures."""
    from condu_cli.data.class_names import plain_name

    counts = Counter(sample.label for sample in data.train)
    named = list(zip(data.folders, data.class_names, strict=True))
    texts = [
        f"{'' if plain_name(folder) == name else f'{folder} = '}{name} ({counts[label]})"
        for label, (folder, name) in enumerate(named[:NAMED_CLASSES])
    ]
    more = len(named) - NAMED_CLASSES
    return ", ".join(texts) + (f" and {more} more" if more > 0 else "")


def _stages_line(plan: "LearnPlan") -> str:
    """Say what will be done: a head, tuning, or both."""
    recipe = plan.recipe
    tuning = (
        f"{recipe.iterations} iterations of {recipe.batch_size} at "
        f"{recipe.crop_size or recipe.image_size} px, "
        f"learning rate {recipe.learning_rate:g}, seed {recipe.seed} (preset: {plan.preset.name})"
    )
    if not plan.request.head_first:
        return tuning
    if plan.tunes:
        return f"a head, then {tuning}"
    alone = plan.request.quick or not recipe.iterations
    return "a head" if alone else "a head; too few pictures to judge more than that"


def show_plan(out: Output, found: "Estimate", plan: "LearnPlan") -> None:
    """Print a plan instead of carrying it out."""
    record = {**_plan_record(plan), "estimate": asdict(found)}
    out.document(record, lambda o: _print_plan(o, record, found, plan.drawn.whole))
    _warn(out, plan)


def _print_plan(
    out: Output, record: dict[str, Any], found: "Estimate", data: "LabelledPictures"
) -> None:
    for name, value in record.items():
        if name not in ("estimate", "recipe", "class_names", "folders"):
            out.text(f"{name:18} {value}")
    out.text(f"{'class names':18} {_classes_line(data)}")
    for name, value in record["recipe"].items():
        out.text(f"  {name:18} {value}")
    out.text(
        f"about {duration(found.reading_seconds)} to read the pictures and "
        f"{duration(found.train_seconds)} to train ({duration(found.seconds_per_iteration)} an "
        "iteration, measured)"
    )
    if found.memory_bytes is not None:
        out.text(f"about {size(found.memory_bytes)} of memory")
    out.note("Nothing was written (--dry-run).")


def _plan_record(plan: "LearnPlan") -> dict[str, Any]:
    return {
        "dry_run": True,
        "task": plan.request.task,
        "base": plan.base_id,
        "data": str(plan.data_root),
        "split": plan.data.split,
        "train_images": len(plan.data.train),
        "validation_images": len(plan.validation),
        "test_images": len(plan.data.test),
        "classes": len(plan.data.class_names),
        "class_names": list(plan.data.class_names),
        "folders": list(plan.data.folders),
        "templates": list(plan.templates),
        "preset": plan.preset.name,
        "overridden": list(plan.overridden),
        "recipe": plan.recipe.as_record(),
        "creates_registry": plan.creates_registry,
    }


def report_summary(out: Output, summary: "LearnSummary") -> None:
    """Print the result of a finished training."""
    for warning in summary.warnings:
        out.warning(warning)
    if summary.unreadable:
        out.warning(unreadable_text(summary.unreadable))
    out.document(asdict(summary), lambda o: _print_summary(o, summary))


def _made_line(summary: "LearnSummary") -> str:
    if summary.stages and not summary.iterations:
        return "a head"
    loss = "unknown" if summary.final_loss is None else f"{summary.final_loss:.3f}"
    measured = summary.validation_accuracy
    validation = "" if measured is None else f", {percent(measured)} on held-out pictures"
    return f"loss {loss} after {summary.iterations} iterations{validation}"


def _seconds_line(summary: "LearnSummary") -> str:
    """Say what each part took; what was not done is left out."""
    tail = summary.unify_seconds + summary.commit_seconds
    parts = [f"reading and prototypes {duration(summary.prototype_seconds)}"]
    if summary.train_seconds:
        parts.append(f"training {duration(summary.train_seconds)}")
    if summary.choosing_seconds:
        parts.append(f"choosing {duration(summary.choosing_seconds)}")
    share = (
        f" (unify and commit: {percent(tail / summary.train_seconds)} of training)"
        if summary.train_seconds
        else ""
    )
    parts += [
        f"unify {duration(summary.unify_seconds)}",
        f"commit {duration(summary.commit_seconds)}{share}",
        f"keeping the expert {duration(summary.keep_seconds)}",
        f"packing history {duration(summary.pack_seconds)}",
    ]
    return ", ".join(parts)


def _print_summary(out: Output, summary: "LearnSummary") -> None:
    from condu_cli.registry.manifest import short_id

    out.text(
        f"Learned {summary.task} in session {short_id(summary.session)}"
        f"{', in place of its beginning' if summary.replaced else ''}: {_made_line(summary)}; "
        f"the registry holds {plural(summary.tasks, 'task')}"
    )
    if summary.stages:
        out.text(stages_line(summary.stages))
    out.text(_seconds_line(summary))
    out.hint(
        "condu evaluate --task {task!q}{here} measures it; condu rollback{here} undoes it",
        task=summary.task,
    )
