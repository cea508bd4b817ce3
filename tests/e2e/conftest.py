"""The folders of real pictures, and the program."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from condu_process import Condu

if TYPE_CHECKING:
    from collections.abc import Callable

DATA = Path(__file__).parents[2].parent / "shared" / "data"


@pytest.fixture(scope="session")
def data() -> Path:
    if not DATA.is_dir():
        pytest.skip("the real image sets are not beside the checkout (../shared/data)")
    return DATA


@pytest.fixture(scope="module")
def condu(condu_in: Callable[[Path], Any], tmp_path_factory: pytest.TempPathFactory) -> Condu:
    return Condu(condu_in, tmp_path_factory.mktemp("condu"))
