"""Plan a training: settle and check everything before it starts."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from condu_cli.backbone.precision import resolve_precision
from condu_cli.data.draws import few_shot, hold_out, limit_pictures
from condu_cli.data.sources.task_data import open_data, templates_for
from condu_cli.errors import UsageError
from condu_cli.train.presets import Preset, preset_for
from condu_cli.train.recipe import Recipe
from condu_cli.workflows.opening.workspace import COMPAT

if TYPE_CHECKING:
    from collections.abc import Mapping

    from condu_cli.backbone.dual_encoder import DualEncoder
    from condu_cli.data.labelled import LabelledPictures, Sample
    from condu_cli.registry.manifest import RegistryConfig

VALIDATION_SHARE = 0.1
"""Default share of the training pictures to hold out, if anything is measured."""
CHOICE_SHARE, CHOICE_PICTURES = 0.2, 500
"""Held out by default to choose between a head and the tuned expert: this share, or this many."""
MEASUREMENTS = 10
"""Default number of measurements in a run, if anything is measured."""
MOST_EPOCHS = 1_000_000
PATHS = ("data", "data_root", "class_names")


@dataclass(frozen=True)
class LearnRequest:
    """What to learn, from which pictures, and which values of the recipe to override.

    `overrides` holds fields of `Recipe` by name, and may hold `epochs`. `head_first`: start from a
    head in closed form; `quick`: and stop there.
    """

    task: str
    data: Path | None = None
    data_root: Path | None = None
    download: bool = False
    class_names: Path | None = None
    templates: tuple[str, ...] = ()
    shots: int | None = None
    limit: int | None = None
    prototype_images: int | None = None
    max_unreadable: int | None = None
    workers: int | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    head_first: bool = True
    quick: bool = False

    @property
    def given(self) -> dict[str, Any]:
        """The overrides that have a value."""
        return {name: value for name, value in self.overrides.items() if value is not None}

    def as_record(self) -> dict[str, Any]:
        """The request as plain JSON values; paths become absolute."""
        record = dict(self.__dict__, templates=list(self.templates), overrides=dict(self.overrides))
        for name in PATHS:
            value = record[name]
            record[name] = None if value is None else str(Path(value).resolve())
        return record

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> LearnRequest:
        """Return the request that `as_record` recorded; raise TypeError for anything else.

        Versions without heads did not record that there was none.
        """
        paths = {name: None if record[name] is None else Path(record[name]) for name in PATHS}
        templates = tuple(record["templates"])
        return cls(**{"head_first": False, **record, **paths, "templates": templates})


@dataclass(frozen=True)
class DrawnPictures:
    """A task's pictures: to train on, held out, and to test with.

    `whole`: the same with nothing held out. `share`: of the pictures to learn from, how many were
    to be held out, 0..1.
    """

    root: Path
    data: LabelledPictures
    validation: tuple[Sample, ...]
    templates: tuple[str, ...]
    share: float
    whole: LabelledPictures

    def undivided(self) -> DrawnPictures:
        """Return the same pictures with nothing held out."""
        return replace(self, data=self.whole, validation=(), share=0.0)


@dataclass(frozen=True)
class LearnPlan:
    """Everything that is settled before training starts: the pictures and the recipe."""

    request: LearnRequest
    drawn: DrawnPictures
    recipe: Recipe
    preset: Preset
    base_id: str
    creates_registry: bool
    assumption: str | None = None
    """How pictures are prepared, if the base model does not say it."""

    def with_recipe(self, recipe: Recipe) -> LearnPlan:
        """Return the same plan with another recipe."""
        return replace(self, recipe=recipe)

    @property
    def tunes(self) -> bool:
        """Whether anything is trained beyond a head.

        Without held-out pictures nothing could tell whether that is better, unless the user wants
        none.
        """
        told = bool(self.validation) or "validation_share" in self.request.given
        return not self.request.quick and self.recipe.iterations > 0 and told

    @property
    def data_root(self) -> Path:
        """The folder or file of the data set."""
        return self.drawn.root

    @property
    def data(self) -> LabelledPictures:
        """The pictures to train on and to test with."""
        return self.drawn.data

    @property
    def validation(self) -> tuple[Sample, ...]:
        """The held-out pictures to measure on."""
        return self.drawn.validation

    @property
    def templates(self) -> tuple[str, ...]:
        """The task's prompt templates."""
        return self.drawn.templates

    @property
    def overridden(self) -> tuple[str, ...]:
        """Names of the values that override the preset."""
        return tuple(sorted(self.request.overrides))


def follows_paper(config: RegistryConfig) -> bool:
    """Whether experts of a registry are fine-tuned as in the paper, without a head."""
    return config.method_options.get(COMPAT) is not None


def without_head(request: LearnRequest) -> LearnRequest:
    """Return the request without a head.

    Raises:
        UsageError: it is for a head alone.

    """
    if request.quick:
        raise UsageError(
            "quick stops after the head, and this registry follows the paper, which has none",
            reason="quick-without-head",
            parameter="quick",
        )
    return replace(request, head_first=False)


def draw_pictures(request: LearnRequest) -> DrawnPictures:
    """Read the data set's layout and draw the pictures, before any model is loaded.

    No picture is decoded.

    Raises:
        DataError: no usable pictures or class names.
        UsageError: a value is out of range.

    """
    _check_values(request.given)
    templates = templates_for(request.task, request.templates)
    data, root = open_data(
        request.task,
        request.data,
        request.data_root,
        request.class_names,
        download=request.download,
    )
    if request.shots is not None:
        data = few_shot(data, request.shots, request.seed)
    if request.limit is not None:
        data = limit_pictures(data, request.limit, request.seed)
    share = _validation_share(request.given) or _choice_share(request, len(data.train))
    whole = data
    data, validation = hold_out(data, share, request.seed) if share else (data, ())
    if _wants_validation(request.given) and not validation:
        raise UsageError(
            f"no picture can be held out of {len(data.train)} pictures of {len(data.class_names)} "
            "classes, since every class keeps one",
            reason="none-to-hold-out",
            pictures=len(data.train),
            classes=len(data.class_names),
        )
    return DrawnPictures(root, data, validation, templates, share, whole)


def plan_training(
    request: LearnRequest,
    drawn: DrawnPictures,
    base: DualEncoder,
    method: str,
    *,
    creates_registry: bool,
) -> LearnPlan:
    """Settle the recipe for a base model and the drawn pictures.

    Raises:
        UsageError: a value does not fit the base model or the pictures.

    """
    preset = preset_for(
        base.recipe_family,
        method,
        request.task,
        classes=len(drawn.data.class_names),
        shots=request.shots,
        pictures=len(drawn.data.train),
        from_head=request.head_first,
    )
    recipe = settle_recipe(request, drawn, base, method, preset)
    if not recipe.iterations and not _wants_validation(request.given):
        drawn = drawn.undivided()  # nothing has to be chosen
        recipe = replace(recipe, validation_share=drawn.share)
    return LearnPlan(
        request=request,
        drawn=drawn,
        recipe=recipe,
        preset=preset,
        base_id=base.info.id,
        creates_registry=creates_registry,
        assumption=base.assumption,
    )


def settle_recipe(
    request: LearnRequest, drawn: DrawnPictures, base: DualEncoder, method: str, preset: Preset
) -> Recipe:
    """Apply the request's overrides to the preset.

    Training uses the first template only, as ConDU's released code does.

    Raises:
        UsageError: a value out of range, or an image size that a fixed-size tower does not take.

    """
    given = request.given
    _check_fit(given, base)
    epochs = given.pop("epochs", None)
    values = {"image_size": base.preprocessing.image_size, **preset.values, **given}
    if epochs is not None:
        pictures = len(drawn.data.train)
        batch = min(pictures, values.get("batch_size", Recipe.batch_size))
        values["iterations"] = max(1, math.ceil(epochs * pictures / batch))
    if "image_size" in given or _uses_validation(given) or base.preprocessing.fixed_size:
        values["crop_size"] = 0  # what is measured in training must be what is trained
    iterations = values["iterations"]
    values.setdefault("warmup_iterations", round(iterations * preset.warmup_share))
    if values["warmup_iterations"] > iterations:
        raise UsageError(
            f"warmup_iterations must be at most the {iterations} iterations, not "
            f"{values['warmup_iterations']}: the learning rate would never be reached",
            reason="warmup-too-long",
            parameter="warmup_iterations",
            value=values["warmup_iterations"],
            iterations=iterations,
        )
    values["validation_share"] = drawn.share
    if _wants_validation(given):
        values.setdefault("validate_every", max(1, round(iterations / MEASUREMENTS)))
    values["precision"] = resolve_precision(given.get("precision", "auto"), base)
    return Recipe(**values, template=drawn.templates[0], seed=request.seed, method=method)


def _wants_validation(given: Mapping[str, Any]) -> bool:
    """Return whether any option needs held-out pictures."""
    return bool(given.get("validation_share") or _uses_validation(given))


def _uses_validation(given: Mapping[str, Any]) -> bool:
    return bool(given.get("validate_every") or given.get("patience") or given.get("keep") == "best")


def _validation_share(given: Mapping[str, Any]) -> float:
    if not _wants_validation(given):
        return 0.0
    share: float = given.get("validation_share", VALIDATION_SHARE)
    return share


def _choice_share(request: LearnRequest, pictures: int) -> float:
    """Return the share of the pictures to hold out for the choice, unless a share is given."""
    if not request.head_first or request.quick or "validation_share" in request.given:
        return 0.0
    return min(CHOICE_SHARE, CHOICE_PICTURES / max(pictures, 1))


def _check_values(given: Mapping[str, Any]) -> None:
    """Refuse values that are out of range for every base model."""
    if "epochs" in given and "iterations" in given:
        raise UsageError("use only one of epochs and iterations", reason="two-lengths")
    if not given.get("learning_rate", 1.0) > 0:
        raise UsageError(
            f"learning_rate must be above 0, not {given['learning_rate']:g}",
            reason="learning-rate-not-positive",
            parameter="learning_rate",
            value=given["learning_rate"],
        )
    if not 0 < given.get("epochs", 1.0) <= MOST_EPOCHS:
        raise UsageError(
            f"epochs must be above 0 and at most {MOST_EPOCHS:,}, not {given['epochs']:g}",
            reason="epochs-out-of-range",
            parameter="epochs",
            value=given["epochs"],
            most=MOST_EPOCHS,
        )
    if not 0 <= given.get("label_smoothing", 0.0) < 1:
        raise UsageError(
            f"label_smoothing must be from 0 to below 1, not {given['label_smoothing']:g}",
            reason="label-smoothing-out-of-range",
            parameter="label_smoothing",
            value=given["label_smoothing"],
        )
    if not 0 <= given.get("validation_share", 0.0) < 1:
        raise UsageError(
            f"validation_share must be from 0 to below 1, not {given['validation_share']:g}",
            reason="validation-share-out-of-range",
            parameter="validation_share",
            value=given["validation_share"],
            usual=VALIDATION_SHARE,
        )
    if given.get("validation_share") == 0 and _uses_validation(given):
        raise UsageError(
            "validation_share 0 holds out no pictures to measure on",
            reason="nothing-to-measure-on",
            parameter="validation_share",
            value=0,
            usual=VALIDATION_SHARE,
        )


def _check_fit(given: Mapping[str, Any], base: DualEncoder) -> None:
    """Refuse what the base model cannot do."""
    size = given.get("image_size", base.preprocessing.image_size)
    if base.preprocessing.fixed_size and size != base.preprocessing.image_size:
        raise UsageError(
            f"{base.info.id} only accepts pictures of {base.preprocessing.image_size} pixels",
            reason="image-size-fixed",
            parameter="image_size",
            value=size,
            fixed=base.preprocessing.image_size,
        )
