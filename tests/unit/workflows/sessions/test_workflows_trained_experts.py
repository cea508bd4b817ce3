"""A saved expert is read back unchanged, or refused."""

from dataclasses import replace

import numpy as np
import pytest
from made_registries import SHAPES, made_config, made_expert, made_registry

from condu_cli.cli.hints.making import hint_of
from condu_cli.errors import ConduError, IntegrityError
from condu_cli.registry.repository import Registry
from condu_cli.workflows.sessions import trained_experts
from condu_cli.workflows.sessions.trained_experts import (
    check_delta,
    keep_expert,
    load_expert,
    new_run,
)


@pytest.fixture
def registry(tmp_path) -> Registry:
    return made_registry(tmp_path / "made", "birds")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_delta_that_cannot_be_unified_is_refused_where_it_enters(registry, value):
    expert = made_expert("cars")
    expert.delta["image.bias"][3] = value
    with pytest.raises(ConduError, match=r"cannot be unified.*image\.bias") as caught:
        check_delta(registry.config, expert.delta)
    assert "--lr" in hint_of(caught.value)
    kept = keep_expert(registry, expert)  # as another process might have written it
    with pytest.raises(IntegrityError, match=r"does not hold a trained expert.*image\.bias"):
        load_expert(registry, kept)


def test_a_kept_expert_is_read_back_bit_for_bit(registry):
    expert = made_expert("cars", folder="/pictures/cars")
    further = replace(expert.prototypes, extra={"scatter": np.eye(3), "of": np.array([7])})
    expert = replace(expert, prototypes=further)
    found = load_expert(registry, keep_expert(registry, expert))
    assert set(found.delta) == set(SHAPES)
    for name, values in expert.delta.items():
        assert found.delta[name].dtype == np.float32
        assert np.array_equal(found.delta[name], values)
    assert set(found.prototypes.extra) == {"scatter", "of"}
    for name, values in expert.prototypes.to_arrays().items():
        assert np.array_equal(found.prototypes.to_arrays()[name], values)
    same = replace(found, delta=expert.delta, prototypes=expert.prototypes)
    assert same == expert


def test_a_head_is_kept_with_its_expert(registry):
    expert = made_expert("cars", head=True)
    found = load_expert(registry, keep_expert(registry, expert))
    assert found.head.keys() == expert.head.keys()
    assert all(np.array_equal(found.head[name], expert.head[name]) for name in expert.head)
    assert load_expert(registry, keep_expert(registry, made_expert("birds"))).head is None


@pytest.mark.parametrize("rows", [1, 3])
def test_a_head_for_other_classes_is_not_kept(registry, rows):
    with pytest.raises(ConduError, match=r"head of the trained expert cannot be used.*'weights'"):
        keep_expert(registry, made_expert("cars", head=True, head_classes=rows))
    assert registry.waiting.paths() == []


def test_a_kept_head_for_other_classes_is_refused(registry, monkeypatch):
    with monkeypatch.context() as patch:  # as another program might have written it
        patch.setattr(trained_experts, "check_head", lambda arrays, classes: arrays)
        kept = keep_expert(registry, made_expert("cars", head=True, head_classes=3))
    with pytest.raises(IntegrityError, match=r"does not hold a trained expert.*'weights'"):
        load_expert(registry, kept)


def test_a_nan_loss_does_not_lose_the_expert(registry):
    expert = made_expert("cars")
    expert = replace(expert, training={**expert.training, "final_loss": float("nan")})
    assert load_expert(registry, keep_expert(registry, expert)).training["final_loss"] is None


def test_tensors_are_kept_as_arrays(registry):
    torch = pytest.importorskip("torch")
    expert = made_expert("cars")
    tensors = {name: torch.from_numpy(values) for name, values in expert.delta.items()}
    found = load_expert(registry, keep_expert(registry, replace(expert, delta=tensors)))
    assert all(np.array_equal(found.delta[name], expert.delta[name]) for name in SHAPES)


def test_an_expert_of_another_registrys_model_is_refused(tmp_path, registry):
    waiting = keep_expert(registry, made_expert("cars"))
    config = made_config()
    other = Registry.create(
        tmp_path / "other", replace(config, base=replace(config.base, weights_sha256="c" * 64))
    )
    other.paths.trained.mkdir()
    moved = other.paths.trained / waiting.path.name
    moved.write_bytes(waiting.path.read_bytes())
    with pytest.raises(IntegrityError, match="another base model"):
        load_expert(other, other.waiting.open(moved))


def test_a_file_that_holds_something_else_is_refused(registry):
    kept = registry.waiting.save("cars", {"x": np.zeros(3)}, {})
    with pytest.raises(IntegrityError):
        load_expert(registry, kept)
    fingerprint = {"fingerprint": registry.config.fingerprint(), "kind": "learn"}
    kept = registry.waiting.save("cars", {"x": np.zeros(3)}, fingerprint)
    with pytest.raises(IntegrityError, match="does not hold a trained expert"):
        load_expert(registry, kept)


def test_every_run_has_its_own_id():
    assert len({new_run() for _ in range(100)}) == 100
