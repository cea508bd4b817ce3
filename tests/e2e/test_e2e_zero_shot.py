"""The embedded base model before it learns anything."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from condu_cli.backbone.base_models import load_base
from condu_cli.data.pictures.transforms import view_of
from condu_cli.data.pictures.windows import windows
from condu_cli.data.sources.folders import read_folder
from condu_cli.data.sources.known_tasks import DEFAULT_TEMPLATES
from condu_cli.workflows.answering.answers import Candidate
from condu_cli.workflows.answering.class_features import encode_candidates
from condu_cli.workflows.answering.panel import logits_of

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.slow, pytest.mark.data, pytest.mark.thorough]


@pytest.mark.parametrize(("name", "expected"), [("oxford_pets", 0.61), ("scene15", 0.50)])
def test_mini_reaches_its_known_zero_shot_accuracy(data: Path, name: str, expected: float) -> None:
    base = load_base("mini")
    pictures = read_folder(data / name)
    candidates = [Candidate(label, None, DEFAULT_TEMPLATES) for label in pictures.class_names]
    classifier = encode_candidates(base, candidates)
    samples = pictures.test
    view = view_of(base.preprocessing)
    right = 0
    for window in windows([sample.picture for sample in samples], [view.geometry]):
        predicted = logits_of(base, classifier, window.views[view.geometry], view)
        rows = zip(predicted.argmax(axis=1), window.places, strict=True)
        right += sum(int(label) == samples[place].label for label, place in rows)
    assert abs(right / len(samples) - expected) < 0.03
