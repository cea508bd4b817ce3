"""What the database says of some blobs is what the whole history says of them."""

import pytest
from registry_drafts import draft_of

from condu_cli.registry.repository import Registry


def committed(registry: Registry, task: str, seed: int) -> None:
    head = registry.head()
    draft = draft_of(registry, task, head, seed)
    with registry.lock("learn"):
        registry.commit(draft, parent=None if head is None else head.id, command="learn")


@pytest.fixture
def forked(registry: Registry) -> Registry:
    """Seven sessions on two lines; some packed, one of them HEAD, the oldest collected."""
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


def test_only_what_was_asked_for_is_answered(forked: Registry) -> None:
    needed = sorted(forked.history().needed_blobs())
    assert forked.needed_among(needed[:3]) == set(needed[:3])
    assert forked.needed_among([]) == set()
    assert forked.needed_among(["f" * 64]) == set()


def test_more_blobs_than_one_statement_takes(forked: Registry) -> None:
    needed = set(forked.history().needed_blobs())
    others = {f"{number:064x}" for number in range(2_000)}
    assert forked.needed_among(needed | others) == needed
