"""Answer with the base model alone: the caller's own labels need no task and no registry."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from condu_cli.backbone.base_models import DEFAULT_BASE, load_base
from condu_cli.data.pictures.transforms import view_of
from condu_cli.errors import NoRegistryError, NotFoundError
from condu_cli.workflows.answering.answers import own_labels, prediction
from condu_cli.workflows.answering.class_features import encode_candidates
from condu_cli.workflows.answering.panel import logits_of
from condu_cli.workflows.answering.predictor import Predictor, predict_windows
from condu_cli.workflows.opening.registry_kind import refuse_other_base
from condu_cli.workflows.opening.workspace import Workspace
from condu_cli.workflows.progress import ProgressCallback, silent

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from condu_cli.backbone.dual_encoder import DualEncoder
    from condu_cli.data.pictures.decoding import Unreadable
    from condu_cli.data.pictures.picture_files import Picture
    from condu_cli.data.pictures.transforms import Transform
    from condu_cli.data.pictures.windows import Window
    from condu_cli.registry.repository import Registry
    from condu_cli.workflows.answering.answers import Prediction
    from condu_cli.workflows.answering.predictor import PredictOptions

NOTHING_LEARNED = ("no-registry", "no-tasks")
"""Reasons for which the base model can still answer."""


class ZeroShot:
    """Answers for pictures among the caller's labels with the base model, which `load` returns.

    `why`: the message of the error that there is nothing else to answer with. `base_id`: the base
    model's name.
    """

    def __init__(
        self, load: Callable[[], DualEncoder], labels: Sequence[str], why: str, base_id: str
    ) -> None:
        self._load = load
        self._candidates = own_labels(labels)
        self.why, self.base_id = why, base_id

    def predict(
        self, pictures: Sequence[Picture], on_progress: ProgressCallback = silent
    ) -> list[Prediction | Unreadable]:
        """Predict every readable picture, in order; each is decoded once."""
        if not pictures:
            return []
        return predict_windows(pictures, [self._view.geometry], self._answer, on_progress)

    @property
    def assumption(self) -> str | None:
        """How pictures are prepared, if the base model does not say it; loads the model."""
        return self._base.assumption

    def _answer(self, window: Window, _: ProgressCallback) -> list[Prediction]:
        seen = window.views[self._view.geometry]
        logits = logits_of(self._base, self._classifier, seen, self._view)
        return [prediction(row, self._candidates, ()) for row in logits]

    @cached_property
    def _base(self) -> DualEncoder:
        return self._load()

    @cached_property
    def _view(self) -> Transform:
        return view_of(self._base.preprocessing)

    @cached_property
    def _classifier(self) -> Tensor:
        return encode_candidates(self._base, self._candidates)


def predictor_for(
    open_registry: Callable[[], Registry],
    options: PredictOptions,
    base_id: str | None,
    device: str,
) -> Predictor | ZeroShot:
    """Return what answers: the registry's tasks, else for the caller's labels the base model.

    `base_id`: the base model if there is no registry; nothing is created for it. No model is
    loaded yet.

    Raises:
        NoRegistryError: there is no registry, and no labels to answer among without one.
        NotFoundError: the registry has no such task, or none at all and there are no labels.
        UsageError: the registry has another base model than `base_id`, or the rule does not fit.

    """
    options.decision()  # refuses a rule that does not fit
    registry: Registry | None = None
    try:
        registry = open_registry()
        refuse_other_base(registry, base_id)
        workspace = Workspace(registry, device)
        return Predictor(workspace, workspace.head(), options)
    except (NoRegistryError, NotFoundError) as exc:
        if exc.reason not in NOTHING_LEARNED:
            raise
        if not options.labels or options.task is not None:
            exc.add(zero_shot_needs="labels")
            raise
        if registry is None:
            name = base_id or DEFAULT_BASE
            return ZeroShot(lambda: load_base(name, device), options.labels, exc.message, name)
        name = registry.config.base.id
        return ZeroShot(lambda: workspace.base, options.labels, exc.message, name)
