"""Fine-tune a copy of the base model on one task's pictures."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import torch

from condu_cli.data.pictures.transforms import seeded_training_transform, view_of
from condu_cli.errors import DivergedError, UsageError
from condu_cli.train.objective import Measured, Objective
from condu_cli.train.recipe import Recipe, learning_rate_at
from condu_cli.train.run_state import History, RunState, capture, restore
from condu_cli.train.sampling import Sampler
from condu_cli.train.team import SOLO, Team, agreed, sum_gradients

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Sequence

    from torch import Tensor

    from condu_cli.backbone.dual_encoder import DualEncoder
    from condu_cli.core.heads import Head
    from condu_cli.data.pictures.picture_sets import PictureSet

LOSS_WINDOW = 10
"""The final loss is the mean over the last iterations, this many."""
VALIDATION_BATCH = 64


@dataclass(frozen=True)
class Step:
    """Progress after an iteration (counted from 1)."""

    iteration: int
    iterations: int
    loss: float
    images_per_second: float
    accuracy: float | None = None
    """Accuracy at the last measurement on held-out pictures, if there was one."""


@dataclass(frozen=True)
class FinetuneResult:
    """The result of a run; `train_seconds` includes the time before interruptions.

    `iterations` counts the iterations run; the expert has the weights after `kept_iteration`.
    `diverged`: what was wrong with the loss in the end, if the best weights were kept instead.
    """

    final_loss: float | None
    train_seconds: float
    iterations: int
    kept_iteration: int
    validation: tuple[dict[str, float], ...] = ()
    stopped_early: bool = False
    diverged: str | None = None


class TrainingInterruptedError(Exception):
    """A stop was requested; `state` resumes after the last finished iteration."""

    def __init__(self, state: RunState) -> None:
        super().__init__("training was interrupted")
        self.state = state


@dataclass(frozen=True)
class Hooks:
    """Callbacks of a run.

    `save` gets the run's state every `save_every` iterations, or if that is 0 every
    `save_every_seconds`, and after the last one if `save_at_end`; `stop_requested` is called after
    every iteration but the last.
    """

    on_step: Callable[[Step], None] = lambda _: None
    stop_requested: Callable[[], bool] = lambda: False
    save: Callable[[RunState], None] | None = None
    save_every: int = 0
    save_every_seconds: float = 600.0
    save_at_end: bool = False


@dataclass(frozen=True)
class TrainingData:
    """The pictures to train on, held-out pictures to measure on, and the classes of both.

    `texts` and `head`: what scores the classes, and `temperature`: the factor for the scores in
    the loss; see `Objective`.
    """

    pictures: PictureSet
    class_names: Sequence[str]
    validation: PictureSet | None = None
    texts: Tensor | None = None
    head: Head | None = None
    temperature: float = 1.0


def finetune(
    model: DualEncoder,
    data: TrainingData,
    recipe: Recipe,
    hooks: Hooks | None = None,
    *,
    start: RunState | None = None,
    team: Team = SOLO,
) -> FinetuneResult:
    """Train the model's trainable parameters in place, with cross entropy over class prompts.

    If the text tower is trained, the class prompts are encoded in every iteration. Two runs with
    the same recipe, pictures and machine give the same weights, even if one was interrupted and
    resumed from `start`.

    Raises:
        DivergedError: the loss became NaN or infinite (the learning rate is too high), and no
            weights better than chance are kept.
        DataError: a picture can no longer be read.
        UsageError: more processes than pictures in a batch.
        TrainingInterruptedError: a hook asked to stop.
        IntegrityError: `start` belongs to other parameters.

    """
    return _Run(model, data, recipe, hooks or Hooks(), team, start).run()


class _Run:
    def __init__(
        self,
        model: DualEncoder,
        data: TrainingData,
        recipe: Recipe,
        hooks: Hooks,
        team: Team,
        start: RunState | None,
    ) -> None:
        model = model.tuning(recipe.tuned)
        self._model, self._data, self._recipe = model, data, recipe
        self._hooks, self._team = hooks, team
        self._named = model.trainable_parameters()
        self._parameters = list(self._named.values())
        self._optimizer = torch.optim.AdamW(
            self._parameters,
            lr=recipe.learning_rate,
            betas=(recipe.beta1, recipe.beta2),
            weight_decay=recipe.weight_decay,
            fused=True,
        )
        self._sampler = Sampler(len(data.pictures), recipe.batch_size, recipe.seed)
        self._parts = parts_of(self._sampler.batch_size, recipe.accumulation, team.size)
        self._best: dict[str, Tensor] = {}
        self._history = History()
        if start is not None:
            self._history = restore(start, self._named, self._optimizer, self._best)
        self._objective = Objective(
            model,
            data.class_names,
            recipe,
            team,
            texts=data.texts,
            head=data.head,
            temperature=data.temperature,
        )
        self._began = time.perf_counter() - self._history.seconds
        self._saved_at = time.perf_counter()

    def run(self) -> FinetuneResult:
        done = self._history.iteration
        diverged = None
        try:
            with closing(self._batches(done)) as batches:
                while not self._is_over():
                    self._iterate(self._history.iteration, islice(batches, self._parts))
                    if not self._is_over():
                        self._keep_or_stop()
        except DivergedError as exc:
            if not self._has_best():
                raise
            diverged = exc.message
        else:
            if self._hooks.save_at_end and self._history.iteration > done:
                self._save()
        return self._result(diverged)

    def _save(self) -> None:
        if self._hooks.save is not None:
            self._hooks.save(self._state())

    def _batches(self, start: int) -> Generator[tuple[Tensor, Tensor], None, None]:
        """Yield this process's pictures and labels, part by part."""
        size = self._recipe.crop_size or self._recipe.image_size
        transform = seeded_training_transform(size, self._model.preprocessing.preparation)
        plan = self._sampler.parts(
            start, self._recipe.iterations, self._parts, self._team.rank, self._team.size
        )
        yield from self._data.pictures.training_batches(plan, transform)

    def _iterate(self, iteration: int, parts: Iterable[tuple[Tensor, Tensor]]) -> None:
        began = time.perf_counter()
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate_at(self._recipe, iteration)
        self._optimizer.zero_grad(set_to_none=True)
        loss = self._objective.accumulate(parts, self._sampler.batch_size).item()
        if not loss - loss == 0:  # infinite or NaN
            raise DivergedError(
                f"training diverged at iteration {iteration + 1}: the loss is {loss}",
                reason="diverged",
                iteration=iteration + 1,
                learning_rate=self._recipe.learning_rate,
            )
        sum_gradients(self._team, self._parameters)
        if self._recipe.clip_norm:
            torch.nn.utils.clip_grad_norm_(self._parameters, self._recipe.clip_norm)
        self._optimizer.step()
        self._note(loss, time.perf_counter() - began)

    def _note(self, loss: float, seconds: float) -> None:
        history = self._history
        history.iteration += 1
        history.losses = [*history.losses, loss][-LOSS_WINDOW:]
        self._measure_if_due()
        history.seconds = time.perf_counter() - self._began
        measured = history.validation
        speed = self._sampler.batch_size / max(seconds, 1e-9)
        self._hooks.on_step(
            Step(
                history.iteration,
                self._recipe.iterations,
                loss,
                speed,
                measured[-1]["accuracy"] if measured else None,
            )
        )

    def _measure_if_due(self) -> None:
        """Measure on held-out pictures every `validate_every` iterations and after the last."""
        every, history = self._recipe.validate_every, self._history
        last = history.iteration == self._recipe.iterations
        if self._data.validation is None or not every or (history.iteration % every and not last):
            return
        mine = measure(
            self._objective, self._model, self._data.validation, self._recipe, self._team
        )
        right = self._team.sum(mine.right.sum().float())
        accuracy = float(right) / len(self._data.validation)
        history.validation.append({"iteration": history.iteration, "accuracy": accuracy})
        if accuracy > history.best_accuracy and self._is_finite():
            history.best_accuracy, history.best_iteration = accuracy, history.iteration
            history.measured_since_best = 0
            if self._recipe.keep == "best":
                self._best = {name: p.detach().clone() for name, p in self._named.items()}
        else:
            history.measured_since_best += 1

    def _is_finite(self) -> bool:
        """Return whether all weights are finite; otherwise their accuracy is meaningless."""
        return all(bool(p.isfinite().all()) for p in self._parameters)

    def _has_best(self) -> bool:
        """Return whether the best weights are better than chance."""
        chance = 1 / len(self._data.class_names)
        return bool(self._best) and self._history.best_accuracy > chance

    def _is_over(self) -> bool:
        """Return whether the last iteration is done, or patience has run out."""
        patience = self._recipe.patience
        tired = bool(patience) and self._history.measured_since_best >= patience
        return tired or self._history.iteration == self._recipe.iterations

    def _keep_or_stop(self) -> None:
        """Save the run if it is due, and stop if requested."""
        stop, due = agreed(self._team, self._hooks.stop_requested(), self._is_save_due())
        if stop:
            raise TrainingInterruptedError(self._state())
        if due:
            self._save()
            self._saved_at = time.perf_counter()

    def _is_save_due(self) -> bool:
        every = self._hooks.save_every
        if every:
            return self._history.iteration % every == 0
        return time.perf_counter() - self._saved_at >= self._hooks.save_every_seconds

    def _state(self) -> RunState:
        return capture(self._named, self._optimizer, self._best, self._history)

    def _result(self, diverged: str | None) -> FinetuneResult:
        history = self._history
        kept = history.iteration
        if self._best:
            kept = history.best_iteration
            with torch.no_grad():
                for name, parameter in self._named.items():
                    parameter.copy_(self._best[name])
        losses = history.losses
        return FinetuneResult(
            final_loss=sum(losses) / max(1, len(losses)),
            train_seconds=time.perf_counter() - self._began,
            iterations=history.iteration,
            kept_iteration=kept,
            validation=tuple(history.validation),
            stopped_early=history.iteration < self._recipe.iterations,
            diverged=diverged,
        )


def measure(
    objective: Objective,
    model: DualEncoder,
    pictures: PictureSet,
    recipe: Recipe,
    team: Team = SOLO,
) -> Measured:
    """Measure a model on this process's share of some pictures: every `team.size`-th."""
    transform = view_of(model.preprocessing, recipe.image_size)
    mine = range(team.rank, len(pictures), team.size)
    return objective.measure(
        pictures.batch(list(mine[i : i + VALIDATION_BATCH]), transform)
        for i in range(0, len(mine), VALIDATION_BATCH)
    )


def parts_of(batch_size: int, accumulation: int, processes: int) -> int:
    """Return the number of parts of each process's share of a batch.

    Raises:
        UsageError: a process would get no pictures.

    """
    if batch_size < processes:
        raise UsageError(
            f"a batch of {batch_size} pictures cannot be divided among {processes} processes",
            reason="batch-too-small",
            parameter="batch_size",
            value=batch_size,
            processes=processes,
        )
    return max(1, min(accumulation, batch_size // processes))
