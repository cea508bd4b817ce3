"""The summary of a finished `learn`."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from condu_cli.workflows.sessions.committing import CommitSeconds

if TYPE_CHECKING:
    from collections.abc import Mapping

    from condu_cli.workflows.sessions.committing import ExpertCommit
    from condu_cli.workflows.sessions.trained_experts import TrainedExpert


@dataclass(frozen=True, kw_only=True)
class LearnSummary(CommitSeconds):
    """The summary of a finished `learn`; times in seconds. An imported expert has no loss.

    `prototype_seconds` covers reading the pictures and building the prototypes, `choosing_seconds`
    what follows training: the choice between head and tuned expert.
    `validation_accuracy` is that of the kept weights, None if it was not measured in training.
    `replaced`: the expert takes the place of the beginning that `learn --quick` made.
    `stages` is the record of the head, of tuning and of the choice, None without a head.
    `unreadable` has the reason for each picture that was skipped.
    """

    session: str
    task: str
    iterations: int
    final_loss: float | None
    train_seconds: float
    choosing_seconds: float
    prototype_seconds: float
    images: int
    classes: int
    tasks: int
    replaced: bool = False
    unreadable: tuple[str, ...] = ()
    validation_accuracy: float | None = None
    stages: dict[str, Any] | None = None
    warnings: tuple[str, ...] = field(default=())


def summarise(trained: TrainedExpert, commit: ExpertCommit) -> LearnSummary:
    """Summarise the commit of a trained expert."""
    training = trained.training
    recipe = training.get("recipe", {})
    return LearnSummary(
        **asdict(commit.seconds),
        session=commit.session.id,
        task=trained.task,
        iterations=training.get("iterations_run", recipe.get("iterations", 0)),
        final_loss=training.get("final_loss"),
        train_seconds=training.get("train_seconds", 0.0),
        choosing_seconds=training.get("choosing_seconds", 0.0),
        prototype_seconds=training.get("prototype_seconds", 0.0),
        images=_pictures(training),
        classes=len(trained.classes),
        tasks=len(commit.session.entries),
        replaced=commit.replaced,
        validation_accuracy=_kept_accuracy(training),
        stages=training.get("stages"),
        warnings=(*commit.warnings, *_divergence(training)),
    )


def _pictures(training: Mapping[str, Any]) -> int:
    """Return how many pictures the expert was made from; a head also has the held-out ones."""
    held_out = training.get("validation_images", 0) if "stages" in training else 0
    return int(training.get("train_images", 0) + held_out)


def _kept_accuracy(training: Mapping[str, Any]) -> float | None:
    """Return the accuracy at the iteration whose weights became the expert."""
    kept = training.get("kept_iteration")
    measured = [v["accuracy"] for v in training.get("validation", ()) if v["iteration"] == kept]
    return measured[-1] if measured else None


def _divergence(training: Mapping[str, Any]) -> tuple[str, ...]:
    """Warn about a training that kept its best weights from before its loss diverged."""
    found = training.get("diverged")
    if found is None:
        return ()
    if not training["kept_iteration"]:
        return (f"{found}; the head is kept: a lower learning rate may do better",)
    accuracy = _kept_accuracy(training) or 0.0
    return (
        f"{found}; the expert is that of iteration {training['kept_iteration']}, the best "
        f"measured ({100 * accuracy:.1f} % on held-out pictures): a lower learning rate may do "
        "better",
    )
