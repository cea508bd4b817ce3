"""What `mini` caches between runs, and the projection that it adds."""

from pathlib import Path

import pytest
import torch

from condu_cli.backbone.dual_encoder import weights_sha256
from condu_cli.backbone.models.mini import Mini
from condu_cli.backbone.user_cache import UserCache
from condu_cli.backbone.weights.checkpoints import Checkpoint
from condu_cli.backbone.weights.foreign_experts import expert_delta


def never(_):
    raise AssertionError("computed again")


def test_a_model_with_kept_embeddings_is_the_one_that_computed_them(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first = Mini()
    assert len(list(UserCache("class-embeddings").folder.iterdir())) == 1
    monkeypatch.setattr(Mini, "_imagenet_class_embeddings", never)
    second = Mini()
    assert torch.equal(second.class_embeddings, first.class_embeddings)
    assert second.info == first.info
    assert not second.class_embeddings.requires_grad
    assert not second.class_embeddings.is_inference()


IDENTITY = "69628034cfa1071f212b164817a68fe4288cc700acdf859157b40090a09ba68b"
"""The hash that registries of every version have recorded for `mini`."""


@pytest.fixture(scope="module")
def mini():
    return Mini()


def test_the_added_projection_is_zero_and_no_part_of_the_identity(mini):
    assert mini.linear_end == "image_projection"
    assert not mini.get_parameter(mini.linear_end).any()
    assert mini.info.weights_sha256 == IDENTITY
    assert weights_sha256(mini) != IDENTITY


def test_without_it_an_embedding_is_what_it_was_bit_for_bit(mini):
    pooled = torch.rand(3, 1280, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        distribution = mini.image.get_classifier()(pooled).softmax(dim=-1)
        plain = torch.nn.functional.normalize(distribution @ mini.class_embeddings, dim=-1)
        assert torch.equal(mini.project_images(pooled), plain)


def test_the_added_projection_maps_unit_features_and_a_constant(mini):
    expert = mini.expert_copy()
    pooled = torch.rand(2, 1280, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expert.image_projection[0, :-1] = 1e6
        expert.image_projection[1, -1] = 1e6
        found = expert.project_images(pooled)
    sums = torch.nn.functional.normalize(pooled, dim=-1).sum(dim=-1)
    assert torch.allclose(found[:, 0] / found[:, 1], sums, rtol=1e-3)
    assert not mini.get_parameter("image_projection").any()


def test_a_checkpoint_without_the_added_projection_is_an_expert_with_zeros(mini):
    weights = {n: t for n, t in mini.state_dict().items() if n != "image_projection"}
    found = expert_delta(mini, Checkpoint(Path("older.safetensors"), weights))
    assert not found.delta["image_projection"].any()
