"""What `mini` caches between runs: its class embeddings."""

import torch

from condu_cli.backbone.models.mini import Mini
from condu_cli.backbone.user_cache import UserCache


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
