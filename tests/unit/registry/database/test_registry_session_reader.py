"""Reading sessions: cached ones are not read again, and the cost does not grow with the cache."""

from collections.abc import Iterator

import pytest

from condu_cli.errors import NotFoundError
from condu_cli.registry.database.session_reader import SessionReader
from condu_cli.registry.repository import Registry


class NeverGoneThrough(dict):
    """A mapping in which only single keys may be looked up."""

    def __iter__(self) -> Iterator[str]:
        raise AssertionError("all known sessions were gone through")

    keys = values = items = copy = __iter__


def test_one_session_costs_no_more_where_many_are_known(registry: Registry, learn) -> None:
    sessions = [learn(task) for task in ("pets", "cars", "birds")]
    reader = SessionReader()
    with registry._read() as transaction:
        reader.all(transaction)
        reader._known = NeverGoneThrough(reader._known)
        assert [reader.get(transaction, session.id) for session in sessions] == sessions


def test_sessions_come_in_the_order_of_their_ids_known_or_not(registry: Registry, learn) -> None:
    first = learn("pets")
    reader = SessionReader()
    with registry._read() as transaction:
        reader.all(transaction)
    second = learn("cars")
    with registry._read() as transaction:
        wanted = [second.id, first.id, second.id]
        assert reader.many(transaction, wanted) == [second, first, second]


def test_a_session_that_is_not_there_is_named(registry: Registry) -> None:
    with registry._read() as transaction, pytest.raises(NotFoundError, match="f" * 64):
        SessionReader().get(transaction, "f" * 64)
