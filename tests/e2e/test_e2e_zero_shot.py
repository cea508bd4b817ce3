"""What the embedded base model knows before it learns anything."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from condu_cli.backbone.base_models import load_base
from condu_cli.data.pictures.loading import LazyPictures
from condu_cli.data.sources.folders import read_folder
from condu_cli.data.sources.known_tasks import DEFAULT_TEMPLATES
from condu_cli.workflows.answering.answers import Candidate
from condu_cli.workflows.answering.panel import logits_of

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.slow, pytest.mark.data]


@pytest.mark.parametrize(("name", "expected"), [("oxford_pets", 0.61), ("scene15", 0.50)])
def test_mini_reaches_its_known_zero_shot_accuracy(data: Path, name: str, expected: float) -> None:
    base = load_base("mini")
    pictures = read_folder(data / name)
    candidates = [Candidate(label, None, DEFAULT_TEMPLATES) for label in pictures.class_names]
    samples = pictures.test
    lazily = LazyPictures([sample.picture for sample in samples])
    size = base.preprocessing.image_size
    predicted = logits_of(base, candidates, lazily, range(len(lazily)), size).argmax(axis=1)
    right = sum(int(p) == sample.label for p, sample in zip(predicted, samples, strict=True))
    assert abs(right / len(samples) - expected) < 0.03
