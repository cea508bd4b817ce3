"""Where tuning starts: a head in closed form on the base model's features, as part of the expert.

The head is folded into the expert's image projection where that loses nothing, so that the expert
is an ordinary dual encoder; else it is stored beside the expert.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from condu_cli.core.folding import best_mixture, even_factor, fold
from condu_cli.core.heads import Head, Moments, calibrated, fit_head
from condu_cli.core.metrics import accuracy
from condu_cli.core.routing.prototypes import unit_rows

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from condu_cli.backbone.dual_encoder import DualEncoder

AGREEMENT = 0.99
"""Share of the pictures for which a folded head must answer as the head itself."""
BATCH = 1024


@dataclass(frozen=True, eq=False)
class Start:
    """An expert before it is tuned: the base model with a head, or without one.

    `end` is added to the image tower's linear end; `head` is stored beside the expert. Both are
    None if the base model's own answers are better than a head's.
    """

    end: torch.Tensor | None = None
    head: Head | None = None

    def place(self, expert: DualEncoder) -> None:
        """Add what is folded to an expert's weights."""
        if self.end is not None:
            with torch.no_grad():
                _end_of(expert).add_(self.end.to(expert.device))


@dataclass(frozen=True)
class Judgement:
    """What the pictures say of the base model and of a head, each picture left out once.

    Accuracies are 0..1, None if no class has two pictures. `zero_shot` is the base model's and
    `unchanged` that of an expert before it has a head, which is another one with `mini`: its
    experts have a temperature of their own. `factor` scales a folded head, see
    `Mixture`; None if it cannot be folded. `temperature` is the factor at which the better one's
    logits are as sure as they deserve: a head beside the expert is scaled by it, anything else is
    tuned with it.
    """

    zero_shot: float | None
    unchanged: float | None
    head: float | None
    factor: float | None
    temperature: float

    @property
    def form(self) -> str:
        """What the expert starts from: `folded`, `beside`, or `none` if it is better without."""
        if self.unchanged is not None and self.head is not None and self.unchanged > self.head:
            return "none"
        return "beside" if self.factor is None else "folded"


class HeadStage:
    """Builds the start of one task's experts.

    `expert`: a fresh copy of the base model; `texts`: unit class texts (C, E) as it answers with.
    `base`: the model whose zero-shot accuracy is told, by default the same.
    """

    def __init__(
        self, expert: DualEncoder, texts: torch.Tensor, base: DualEncoder | None = None
    ) -> None:
        self._expert, self._base = expert, base or expert
        self._texts = texts
        self._plain = texts.double().cpu().numpy()

    def judge(
        self, pooled: NDArray[np.float32], labels: NDArray[np.integer]
    ) -> tuple[Judgement, Start]:
        """Judge zero-shot and a head on pooled features (N, P) and labels (N,) of all pictures.

        Return also the better start, fitted to all of them.
        """
        unit = unit_rows(pooled)
        moments = Moments.of(unit, labels, len(self._plain))
        head = moments.head()
        judged = self._judged(moments, head, pooled, labels)
        return judged, self._start(judged, head, pooled)

    def start(
        self, judged: Judgement, pooled: NDArray[np.float32], labels: NDArray[np.integer]
    ) -> Start:
        """Return the start that was judged best, fitted to these pictures."""
        return self._start(judged, fit_head(unit_rows(pooled), labels, len(self._plain)), pooled)

    def _judged(
        self,
        moments: Moments,
        head: Head,
        pooled: NDArray[np.float32],
        labels: NDArray[np.integer],
    ) -> Judgement:
        unit, classes = unit_rows(pooled), len(self._plain)
        base = self._embeddings(pooled)
        if len(pooled) == classes:  # one picture of each: leaving it out leaves nothing of it
            factor = even_factor(self._plain, base, head.scores(unit))
            folds = self._trains_end and self._folds(pooled, base, head, factor)
            return Judgement(None, None, None, factor if folds else None, 1.0)
        scores = moments.left_out(unit, labels)
        told = np.isfinite(scores[np.arange(len(labels)), labels])
        scores, known, right = scores[told], base[told], labels[told]
        unchanged = accuracy((known @ self._plain.T).argmax(axis=1), right)
        plain = self._embeddings(pooled[told], self._base)
        zero_shot = accuracy((plain @ self._plain.T).argmax(axis=1), right)
        scale = self._expert.logit_scale_value
        if self._trains_end:
            mixture = best_mixture(self._plain, known, scores, right, scale)
            if self._folds(pooled, base, head, mixture.factor):
                temperature = mixture.temperature
                judged = Judgement(
                    zero_shot, unchanged, mixture.accuracy, mixture.factor, temperature
                )
                return self._of_the_better(judged, known, right)
        beside = accuracy(scores.argmax(axis=1), right)
        judged = Judgement(zero_shot, unchanged, beside, None, calibrated(scores, right))
        return self._of_the_better(judged, known, right)

    def _of_the_better(
        self, judged: Judgement, base: NDArray[np.float64], labels: NDArray[np.integer]
    ) -> Judgement:
        """Exchange the temperature for the base model's own if no head is better."""
        if judged.form != "none":
            return judged
        return replace(judged, temperature=calibrated(self._compared(base), labels))

    def _compared(self, embeddings: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the logits (N, C) of embeddings (N, E)."""
        logits: NDArray[np.float64] = (
            self._expert.logit_scale_value * unit_rows(embeddings) @ self._plain.T
        )
        return logits

    def _start(self, judged: Judgement, head: Head, pooled: NDArray[np.float32]) -> Start:
        if judged.form == "none":
            return Start()
        if judged.factor is None:
            factor = np.float32(judged.temperature)
            return Start(head=Head(factor * head.weights, factor * head.bias))
        return self._folded(head, judged.factor, pooled)

    def again(
        self,
        judged: Judgement,
        pooled: NDArray[np.float32],
        labels: NDArray[np.integer],
        unseen: tuple[NDArray[np.float32], NDArray[np.integer]] | None = None,
    ) -> tuple[Judgement, Start]:
        """Fit the head once more, to pooled features (N, P) and labels (N,) of a tuned tower.

        `unseen`: the same of pictures that the tower has not seen, if there are any. A head that
        can be folded no longer is stored beside the expert. The expert's linear end must be that
        of the base model.
        """
        unit = unit_rows(pooled)
        moments = Moments.of(unit, labels, len(self._plain))
        head = moments.head()
        factor = judged.factor
        if factor is not None and not self._folds(pooled, self._embeddings(pooled), head, factor):
            factor = None
        judged = replace(judged, factor=factor)
        if factor is None:
            if unseen is None:
                scores, expected = moments.left_out(unit, labels), labels
            else:
                scores, expected = head.scores(unit_rows(unseen[0])).astype(np.float64), unseen[1]
            judged = replace(judged, temperature=calibrated(scores, expected))
        return judged, self._start(judged, head, pooled)

    def logits(self, start: Start, pooled: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return what the start answers to pooled features (N, P): logits (N, C)."""
        if start.head is not None:
            return start.head.scores(unit_rows(pooled)).astype(np.float64)
        with self._placed(start):
            return self._compared(self._embeddings(pooled))

    def _folded(self, head: Head, factor: float, pooled: NDArray[np.float32]) -> Start:
        weights, offset = (torch.from_numpy(part) for part in fold(self._plain, head, factor))
        end = self._expert.linear_end_of(weights, offset, torch.from_numpy(pooled).double())
        return Start(end=end.float())

    def _folds(
        self, pooled: NDArray[np.float32], base: NDArray[np.float64], head: Head, factor: float
    ) -> bool:
        """Whether the head can be folded into the linear end, which then answers as it should."""
        ideal = base @ self._plain.T + factor * head.scores(unit_rows(pooled))
        with self._placed(self._folded(head, factor, pooled)):
            found = self._embeddings(pooled) @ self._plain.T
        return accuracy(found.argmax(axis=1), ideal.argmax(axis=1)) >= AGREEMENT

    @property
    def _trains_end(self) -> bool:
        return self._expert.linear_end in self._expert.trainable_parameters()

    @contextmanager
    def _placed(self, start: Start) -> Iterator[None]:
        parameter = None if start.end is None else _end_of(self._expert)
        before = None if parameter is None else parameter.detach().clone()
        start.place(self._expert)
        try:
            yield
        finally:
            if parameter is not None and before is not None:
                with torch.no_grad():
                    parameter.copy_(before)

    @torch.inference_mode()
    def _embeddings(
        self, pooled: NDArray[np.float32], model: DualEncoder | None = None
    ) -> NDArray[np.float64]:
        """Return the expert's embeddings (N, E) of pooled features, before normalisation."""
        model = model or self._expert
        device = model.device
        parts = [
            model.embed_pooled(torch.from_numpy(pooled[i : i + BATCH]).to(device)).cpu()
            for i in range(0, len(pooled), BATCH)
        ]
        return torch.cat(parts).double().numpy()


def _end_of(expert: DualEncoder) -> torch.nn.Parameter:
    assert expert.linear_end is not None  # noqa: S101 - a head was folded into it
    return expert.trainable_parameters()[expert.linear_end]
