"""Figures, names and sessions in words for people."""

from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from condu_cli.registry.manifest import Session
    from condu_cli.workflows.opening.paradigms import MethodSummary

NAMED = 10
"""The most unreadable pictures that are named on the screen."""


def size(count: float) -> str:
    """Format bytes in decimal units, as disks are sold."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.2f} GB"


def duration(seconds: float) -> str:
    """Format seconds; from two minutes on, as minutes and seconds."""
    if seconds < 10:
        return f"{seconds:.2f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{int(seconds) // 60} min {int(seconds) % 60} s"


def percent(share: float | None) -> str:
    """Format a share of one as a percentage with one decimal; a dash for None."""
    return "-" if share is None else f"{100 * share:.1f} %"


def unreadable_text(reasons: "Sequence[str]") -> str:
    """Say how many pictures were skipped, and what is wrong with the first of them."""
    more = len(reasons) - NAMED
    tail = f"; and {more} more (--json names all)" if more > 0 else ""
    return (
        f"skipped {plural(len(reasons), 'picture')} that could not be read: "
        f"{'; '.join(reasons[:NAMED])}{tail}"
    )


def omitted_text(lines: "Sequence[str]") -> str:
    """Say what was not looked at below a folder."""
    more = len(lines) - NAMED
    tail = f"; and {more} more" if more > 0 else ""
    return f"left out: {'; '.join(lines[:NAMED])}{tail}"


def when(iso: str) -> str:
    """Format an ISO-8601 time in the user's time zone, to the second."""
    # Python 3.10 does not read the Z that stands for UTC.
    at = datetime.fromisoformat(iso.replace("Z", "+00:00"))
    return f"{at.astimezone():%Y-%m-%d %H:%M:%S}"


def plural(count: int, noun: str) -> str:
    """`1 task`, `2 tasks`, `2 classes`."""
    ending = "" if count == 1 else "es" if noun.endswith("s") else "s"
    return f"{count:,} {noun}{ending}"


def method_line(summary: "MethodSummary") -> str:
    """Describe a registry's paradigm and the number of parameters that it trains."""
    millions = summary.parameters / 1e6
    count = f"{millions:.1f} M" if millions >= 0.1 else f"{summary.parameters:,}"
    trained = f"{count} trainable parameters"
    if summary.rank is None:
        return f"{summary.method} fine-tuning, {trained}"
    kept = ", A frozen" if summary.freeze_a else ""
    return (
        f"LoRA of rank {summary.rank}, alpha {summary.alpha:g}{kept} in {summary.layers} layers, "
        f"{trained}"
    )


def session_name(session_id: str | None) -> str:
    """Return the first digits of a session's id; None is the empty state."""
    from condu_cli.registry.manifest import short_id

    return short_id(session_id) if session_id else "empty"


def describe_session(session: "Session | None") -> str:
    """Describe a session by the first digits of its id and its tasks."""
    if session is None:
        return "the empty registry"
    tasks = ", ".join(entry.name for entry in session.entries) or "no tasks"
    return f"{session_name(session.id)} ({tasks})"


def stages_line(stages: "Mapping[str, Any]") -> str:
    """Say what a head and tuning reached on pictures they had not seen, and what was kept."""
    zero_shot, head = percent(stages["zero_shot"]), percent(stages["head"])
    judged = f"zero-shot {zero_shot}, head {head} of the pictures, each left out once"
    if stages["head"] is None:
        judged = "one picture of each class tells nothing of the head"
    points = stages.get("points")
    if not points:
        return judged
    first, *tuned = points
    best = min(tuned, key=lambda point: float(point["loss"]))
    start = "base model" if stages["form"] == "none" else "head"
    return (
        f"{judged}; {start} {percent(first['accuracy'])}, tuned {percent(best['accuracy'])} of "
        f"{stages['held_out_images']:,} held-out pictures: kept at {stages['kept']:g}"
    )
