"""What the database says about blobs agrees with the whole history."""

import pytest
from made_registries import made_registry
from made_sessions import session_of

from condu_cli.registry.database.needs import needed_among
from condu_cli.registry.repository import Registry
from condu_cli.workflows.sessions.forgetting import rename


def committed(registry: Registry, task: str, seed: int) -> None:
    head = registry.head()
    session = session_of(registry, task, head, seed)
    with registry.lock("learn"):
        registry.commit(session, command="learn")


@pytest.fixture
def forked(registry: Registry) -> Registry:
    """Return seven sessions on two lines: some packed, one HEAD, the oldest collected."""
    for number, task in enumerate("abcd"):
        committed(registry, task, number)
    registry.rollback(registry.resolve("@~2"), "rollback")
    for number, task in enumerate("efg", 10):
        committed(registry, task, number)
    g, f, e, d, c, b, a = registry.sessions()
    with registry.lock("gc"):
        registry.record_pack(b, c, registry.blobs.put({}))
        registry.record_pack(c, d, None)
        registry.record_pack(e, f, None)
        registry.record_pack(f, g, None)
        registry.record_collected([a.id], "gc")
    registry.rollback(f, "rollback")
    return registry


def test_what_is_needed_of_all_blobs_is_what_the_history_needs(forked: Registry) -> None:
    known = forked.blob_sizes()
    needed = forked.needed_among(known)
    assert needed == set(forked.history().needed_blobs())
    assert set() < needed < set(known)
    assert set(forked.history().needed_blobs().values()) >= {"part", "prototypes", "head"}


def test_only_what_was_asked_for_is_answered(forked: Registry) -> None:
    needed = sorted(forked.history().needed_blobs())
    assert forked.needed_among(needed[:3]) == set(needed[:3])
    assert forked.needed_among([]) == set()
    assert forked.needed_among(["f" * 64]) == set()


def test_more_blobs_than_one_statement_takes(forked: Registry) -> None:
    needed = set(forked.history().needed_blobs())
    others = {f"{number:064x}" for number in range(2_000)}
    assert forked.needed_among(needed | others) == needed


def steps_of_asking(registry: Registry) -> int:
    """Count the instructions SQLite runs to find what HEAD's state needs."""
    head = registry.head()
    assert head is not None
    count = 0

    def step() -> int:
        nonlocal count
        count += 1
        return 0

    with registry._read() as transaction:
        connection = transaction.connection().connection.driver_connection
        connection.set_progress_handler(step, 1)
        try:
            assert needed_among(transaction, head.state_blobs()) == set(head.state_blobs())
        finally:
            connection.set_progress_handler(None, 0)
    return count


def test_blobs_that_all_sessions_share_are_not_looked_for_in_all_of_them(tmp_path) -> None:
    registry = made_registry(tmp_path / "made", "birds", "cars")
    counts = {}
    for number in range(1, 61):
        rename(registry, "cars" if number % 2 else "autos", "autos" if number % 2 else "cars", "r")
        counts[number] = steps_of_asking(registry)
    # A few steps depend on the order of the ids; one per session would be 50 more.
    assert counts[60] < counts[10] + 25
