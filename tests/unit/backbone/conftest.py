"""One tiny base model for the tests of this folder, which must not change it."""

import pytest

from condu_cli.backbone.base_models import _load
from condu_cli.backbone.dual_encoder import DualEncoder


@pytest.fixture(scope="session")
def tiny() -> DualEncoder:
    return _load("tiny")
