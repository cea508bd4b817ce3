"""What a dry run measures and says."""

import pytest

from condu_cli.errors import DataError
from condu_cli.workflows.learning import estimating
from condu_cli.workflows.learning.estimating import estimate


@pytest.fixture
def planned(learner, tmp_path, warm):
    def plan(data=warm, **values):
        one = learner(tmp_path / "registry", "warm", data, base="tiny", **values)
        found = one.plan()
        return found.plan, found.kind.base

    return plan


def test_an_estimate_counts_reading_training_and_memory(planned):
    plan, base = planned(iterations=50, validation_share=0.0)
    found = estimate(plan, base)
    assert found.reading_seconds > 0
    assert found.train_seconds > 50 * found.seconds_per_iteration  # and the passes of the choice
    parameters = sum(p.numel() for p in base.trainable_parameters().values())
    assert found.expert_bytes == 4 * parameters
    assert found.memory_bytes > 3 * found.expert_bytes


def test_measuring_takes_time_too(planned):
    plan, base = planned(iterations=50, validate_every=1)
    found = estimate(plan, base)
    assert found.train_seconds > 50 * found.seconds_per_iteration


def test_one_process_of_a_team_takes_its_share_of_a_batch(planned, monkeypatch):
    seen = []
    run = estimating.finetune

    def spy(model, data, recipe, hooks):
        seen.append(recipe.batch_size)
        return run(model, data, recipe, hooks)

    monkeypatch.setattr(estimating, "finetune", spy)
    plan, base = planned(batch_size=8)
    for processes in (1, 2):
        estimate(plan, base, processes)
    assert seen == [8, 4]


def test_unreadable_pictures_are_reported(planned, tmp_path, make_pictures):
    data = make_pictures(tmp_path / "data", ("blue", "red"), 4, 16)
    for picture in data.glob("*/*"):
        picture.write_bytes(b"broken")
    with pytest.raises(DataError, match=r"none of .* sampled pictures can be read"):
        estimate(*planned(data))
