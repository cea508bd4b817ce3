"""The demo is the first thing that users run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from condu_process import Condu

pytestmark = pytest.mark.slow


def test_the_demo_learns_two_tasks_and_forgets_none(condu: Condu) -> None:
    result = condu.json("demo")
    assert result["digits_before"] > 0.8
    assert result["digits_before"] > result["digits_zero_shot"] + 0.5
    assert result["digits_after"] > result["digits_before"] - 0.05
    assert result["rollback_restores_predictions"] is True
    assert not condu.registry.exists()
