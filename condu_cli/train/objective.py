"""The loss and gradient of an iteration: cross entropy over the task's class prompts.

The authors' loop encodes every class prompt at the full context length for every batch, with
gradients. This is the same mathematics with less work: prompts are cut to their length, duplicates
are encoded once, and the text tower runs once per iteration, however the batch is cut into parts.
For that, the gradient passes the text features in two steps: the parts accumulate dL/d(features),
and one backward pass carries it into the text tower (the chain rule).
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.nn import functional

from condu_cli.backbone.classifiers import TorchHead, fill_template
from condu_cli.backbone.prompts import encode_prompts
from condu_cli.train.team import SOLO, Team

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from torch import Tensor

    from condu_cli.backbone.dual_encoder import DualEncoder
    from condu_cli.core.heads import Head
    from condu_cli.train.recipe import Recipe

AUTOCAST = {"bfloat16": torch.bfloat16}


class Measured(NamedTuple):
    """The logits (N, C), float32, and labels (N,) of some pictures, in order, on the CPU."""

    logits: Tensor
    labels: Tensor

    @property
    def right(self) -> Tensor:
        """Whether each picture is classified correctly (N,)."""
        return self.logits.argmax(dim=-1) == self.labels


class Objective:
    """Scaled cosines between pictures and class prompts, their loss and its gradient.

    `texts`: unit class texts (C, E) to use instead of encoding the recipe's prompts; then they are
    not trained. `head`: scores classes instead of the cosines. `temperature`: the loss is that of
    the scores times this. If they are less sure than they deserve to be, the gradient of nearly
    every picture only makes them surer, and says little about those that are wrong.
    """

    def __init__(
        self,
        model: DualEncoder,
        class_names: Sequence[str],
        recipe: Recipe,
        team: Team = SOLO,
        *,
        texts: Tensor | None = None,
        head: Head | None = None,
        temperature: float = 1.0,
    ) -> None:
        self._model = model
        self._temperature = temperature
        self._recipe = recipe
        self._team = team
        prompts = [fill_template(recipe.template, name) for name in class_names]
        unique = list(dict.fromkeys(prompts))
        self._count = len(unique)
        # Each process encodes its share of the prompts and receives the other features.
        self._mine = torch.arange(team.rank, self._count, team.size, device=model.device)
        mine = [unique[index] for index in self._mine.tolist()]
        self._tokens = {
            name: tensor.to(model.device) for name, tensor in model.tokenize(mine or [""]).items()
        }
        self._rows = torch.tensor([unique.index(p) for p in prompts], device=model.device)
        self._head = None if head is None else TorchHead.on(model.device, head.weights, head.bias)
        self._frozen_texts: Tensor | None = None
        if head is not None:
            self._frozen_texts = torch.zeros(0, device=model.device)  # nothing asks for them
        elif texts is not None or not model.trains_text:
            self._freeze_texts(texts)

    def accumulate(self, parts: Iterable[tuple[Tensor, Tensor]], batch_size: int) -> Tensor:
        """Add the gradient of an iteration to the parameters; return its mean loss ().

        `parts` are this process's pictures (B, 3, S, S) and labels (B,). `batch_size`, by which all
        sums are divided, counts the pictures of all parts and processes. Losses and text features
        are exchanged here, gradients of parameters are not.
        """
        own = self._own_features() if self._frozen_texts is None else None
        texts = self._frozen_texts if own is None else self._gather(own.detach()).requires_grad_()
        assert texts is not None  # noqa: S101 - the tower is frozen, or it was just run
        total = torch.zeros((), device=self._model.device)
        for pixels, labels in parts:
            loss = self._loss(pixels, labels, texts) / batch_size
            if loss.requires_grad:  # False for frozen towers: nothing to do
                loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        if own is not None and texts.grad is not None:
            gradient = self._team.sum(texts.grad)[self._mine]
            if len(gradient):
                own.backward(gradient)  # type: ignore[no-untyped-call]
        return self._team.sum(total)

    @torch.inference_mode()
    def measure(self, batches: Iterable[tuple[Tensor, Tensor]]) -> Measured:
        """Measure the current model on this process's share of some pictures."""
        texts = self._frozen_texts
        texts = self._gather(self._own_features()) if texts is None else texts
        logits = [torch.zeros(0, len(self._rows))]
        every = [torch.zeros(0, dtype=torch.int64)]
        for pixels, labels in batches:
            logits.append(self._logits(pixels, texts).float().cpu())
            every.append(labels)
        return Measured(torch.cat(logits), torch.cat(every))

    def _loss(self, pixels: Tensor, labels: Tensor, texts: Tensor) -> Tensor:
        """Return the sum of the pictures' losses ()."""
        return functional.cross_entropy(
            self._temperature * self._logits(pixels, texts),
            labels.to(texts.device),
            label_smoothing=self._recipe.label_smoothing,
            reduction="sum",
        )

    def _logits(self, pixels: Tensor, texts: Tensor) -> Tensor:
        """Return scaled cosines between a batch and all class prompts (B, C), float32.

        If a head is stored beside the model, return its scores.
        """
        model = self._model
        with self._autocast():
            prepared = model.prepare_pixels(pixels)
            if self._head is not None:
                return self._head(model.pool_images(prepared))
            images = model.encode_images(prepared)  # (B, E)
        return model.logit_scale_value * images.float() @ texts[self._rows].T

    def _own_features(self) -> Tensor:
        """Encode this process's share of the unique prompts (M, E), with gradients."""
        with self._autocast():
            return encode_prompts(self._model, self._tokens).float()[: len(self._mine)]

    def _gather(self, own: Tensor) -> Tensor:
        """Gather the features of all unique prompts (U, E) from all processes."""
        if self._team.size == 1:
            return own
        every = torch.zeros(self._count, own.shape[1], device=own.device)
        every[self._mine] = own
        return self._team.sum(every)

    @torch.no_grad()
    def _freeze_texts(self, texts: Tensor | None) -> None:
        """Keep the class texts: those given, one per class (C, E), or encoded once."""
        if texts is not None:
            self._frozen_texts = texts.to(self._model.device)
            self._rows = torch.arange(len(texts), device=self._model.device)
        else:
            self._frozen_texts = self._gather(self._own_features())

    def _autocast(self) -> Any:
        dtype = AUTOCAST.get(self._recipe.precision)
        if dtype is None:
            return nullcontext()
        return torch.autocast(self._model.device.type, dtype=dtype)
