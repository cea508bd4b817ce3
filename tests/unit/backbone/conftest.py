"""One tiny base model for the tests of this folder; nobody may change it."""

import pytest

from condu_cli.backbone.base import DualEncoder
from condu_cli.backbone.catalog import _load


@pytest.fixture(scope="session")
def tiny() -> DualEncoder:
    return _load("tiny")
