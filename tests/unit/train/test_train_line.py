"""The line between an expert's weights before and after tuning."""

import pytest
import torch

from condu_cli.backbone.base_models import load_base
from condu_cli.train.line import Line


@pytest.fixture
def tiny():
    return load_base("tiny")


def moved(base):
    expert = base.training_copy()
    with torch.no_grad():
        for parameter in expert.trainable_parameters().values():
            parameter.add_(1.0)
    return expert


def test_both_ends_are_exact(tiny):
    expert = moved(tiny)
    tuned = {n: p.detach().clone() for n, p in expert.trainable_parameters().items()}
    line = Line(expert, tiny.trainable_parameters())
    line.go_to(0.0)
    for name, parameter in expert.trainable_parameters().items():
        assert torch.equal(parameter, tiny.trainable_parameters()[name])
    line.go_to(1.0)
    for name, parameter in expert.trainable_parameters().items():
        assert torch.equal(parameter, tuned[name])


def test_a_point_between_is_a_share_of_what_tuning_changed(tiny):
    expert = moved(tiny)
    line = Line(expert, tiny.trainable_parameters())
    line.go_to(0.25)
    for name, parameter in expert.trainable_parameters().items():
        assert torch.allclose(parameter, tiny.trainable_parameters()[name] + 0.25, atol=1e-6)


def test_the_start_is_reached_from_weights_that_became_nan(tiny):
    expert = moved(tiny)
    with torch.no_grad():
        for parameter in expert.trainable_parameters().values():
            parameter.fill_(torch.nan)
    Line(expert, tiny.trainable_parameters()).go_to(0.0)
    for name, parameter in expert.trainable_parameters().items():
        assert torch.equal(parameter, tiny.trainable_parameters()[name])
