"""Opening the registry that a command works on."""

import pytest

from condu_cli.errors import UsageError
from condu_cli.workflows.opening.registry_only import open_if_there, refuse_existing


def test_where_nothing_is_a_registry_could_be(tmp_path):
    assert open_if_there(tmp_path / "nowhere") is None
    assert open_if_there(tmp_path) is None
    refuse_existing(tmp_path)


def test_an_existing_registry_is_not_created_again(registry_path):
    assert open_if_there(registry_path) is not None
    with pytest.raises(UsageError, match="already"):
        refuse_existing(registry_path)
