"""Errors carry a reason and facts, even through pickling."""

import pickle
from pathlib import Path

import pytest

from condu_cli import errors
from condu_cli.errors import ConduError, UsageError

KINDS = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, ConduError)
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_error_survives_pickling(kind: type[ConduError]) -> None:
    error = kind("a.png: no such file", reason="no-such-file", path="a.png", tried=["a", 1])
    error.add(kept=True)
    back = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    assert type(back) is kind
    assert str(back) == back.message == "a.png: no such file"
    assert back.reason == "no-such-file"
    assert back.facts == {"path": "a.png", "tried": ["a", 1], "kept": True}
    assert back.exit_code == kind.exit_code


def test_facts_are_what_json_can_hold() -> None:
    error = UsageError("wrong", reason="x", path=Path("a/b"), pair=(1, Path("c")), by={1: 2.5})
    assert error.facts == {"path": "a/b", "pair": [1, "c"], "by": {"1": 2.5}}
