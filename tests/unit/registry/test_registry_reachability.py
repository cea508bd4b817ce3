from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from condu_cli.errors import IntegrityError
from condu_cli.registry.manifest import Expert, Pack, Session, TaskEntry
from condu_cli.registry.reachability import History, broken_references


def sha256(text: str) -> str:
    return text.encode().hex().ljust(64, "0")


def session(name: str, parent: str | None, *tasks: str) -> Session:
    """Return a session whose blobs are named after it, and prototypes after the task."""
    entries = tuple(
        TaskEntry(
            t, Expert((), (), sha256(f"o{t}")), sha256(f"{name}{t}"), None, {"norm": 1.0}, None
        )
        for t in tasks
    )
    return Session(name, parent, "learn", "t", "2026", sha256(name), entries)


THREE = [session("c", "b", "x", "y"), session("b", "a", "x", "y"), session("a", None, "x")]


def history(
    sessions: list[Session] = THREE,
    head: str | None = "c",
    packs: tuple[Pack, ...] = (),
    collected: tuple[str, ...] = (),
    tags: dict[str, str] | None = None,
    undoable: frozenset[str] = frozenset(),
) -> History:
    noted = {pack.session: pack for pack in packs}
    return History(sessions, head, noted, dict.fromkeys(collected, "2026"), tags or {}, undoable)


PACKED = (Pack("a", "b", sha256("pa")), Pack("b", "c", None))


def test_a_line_is_a_session_and_all_before_it() -> None:
    assert history().line("c") == ["c", "b", "a"]
    assert history().line("a") == ["a"]
    assert history().line(None) == []


@pytest.mark.parametrize("head", ["gone", "c"])
def test_a_line_to_a_session_that_is_not_there_is_an_integrity_error(head: str) -> None:
    with pytest.raises(IntegrityError, match="referenced but missing"):
        history(THREE[:2], head).kept(None)


def test_a_session_is_found_by_its_id() -> None:
    assert history().session("b") is THREE[1]
    with pytest.raises(IntegrityError, match="is referenced but missing"):
        history().session("gone")


def test_packs_that_form_a_cycle_are_found_once_each() -> None:
    circle = (Pack("a", "b", None), Pack("b", "a", None))
    assert set(history(packs=circle).circular_packs()) == set(circle)
    assert history(packs=PACKED).circular_packs() == []
    leads_there = (Pack("a", "b", None), Pack("b", "c", None), Pack("c", "b", None))
    assert set(history(packs=leads_there, head=None).circular_packs()) == set(leads_there[1:])


def test_a_circle_through_head_is_none_because_head_has_files() -> None:
    circle = (Pack("a", "b", None), Pack("b", "a", None))
    assert history(packs=circle, head="a").circular_packs() == []


def test_head_and_what_has_no_pack_has_files() -> None:
    has = {s.id: history(packs=PACKED, head="b").has_files(s) for s in THREE}
    assert has == {"a": False, "b": True, "c": True}


def test_a_session_with_files_needs_all_its_blobs() -> None:
    assert history().blobs(THREE[2]) == {
        sha256("a"): "shared",
        sha256("ax"): "part",
        sha256("ox"): "prototypes",
    }


def test_a_packed_session_needs_its_patch_and_its_prototypes() -> None:
    assert history(packs=PACKED).blobs(THREE[2]) == {
        sha256("pa"): "patch",
        sha256("ox"): "prototypes",
    }


def test_a_packed_session_needs_the_heads_of_its_experts() -> None:
    entry = THREE[2].entries[0]
    headed = replace(entry, expert=replace(entry.expert, head=sha256("h")))
    found = history([*THREE[:2], replace(THREE[2], entries=(headed,))], packs=PACKED)
    assert found.needed_blobs()[sha256("h")] == "head"
    assert found.affected_by({sha256("h")})["a"] == {sha256("h")}


def test_a_packed_session_without_a_patch_needs_its_prototypes_only() -> None:
    assert history(packs=PACKED).blobs(THREE[1]) == {
        sha256("ox"): "prototypes",
        sha256("oy"): "prototypes",
    }


def test_head_keeps_the_patch_that_it_came_back_from() -> None:
    needed = history(packs=PACKED, head="a").blobs(THREE[2])
    assert needed == {**THREE[2].blob_kinds(), sha256("pa"): "patch"}


def test_prototypes_that_are_also_a_part_are_needed_as_files() -> None:
    (entry,) = THREE[2].entries
    odd = replace(THREE[2], entries=(replace(entry, part=entry.expert.prototypes),))
    found = history([*THREE[:2], odd], packs=PACKED)
    assert found.blobs(odd)[entry.expert.prototypes] == "prototypes"
    assert entry.expert.prototypes not in found.spare_blobs()


def test_what_is_needed_is_the_blobs_of_all_that_is_not_collected() -> None:
    assert history().needed_blobs().keys() == set().union(*(s.blobs() for s in THREE))
    needed = history(collected=("a",), packs=PACKED[1:])
    assert needed.needed_blobs().keys() == THREE[0].blobs()
    assert [s.id for s in needed.live] == ["c", "b"]


def test_a_spare_blob_is_restorable_from_a_patch_and_not_needed_elsewhere() -> None:
    assert history(packs=PACKED).spare_blobs() == {
        *THREE[1].state_blobs(),
        *THREE[2].state_blobs(),
    }
    shared = replace(THREE[0], shared=sha256("a"))
    assert sha256("a") not in history([shared, *THREE[1:]], packs=PACKED).spare_blobs()
    assert history().spare_blobs() == set()


def test_a_collected_session_has_nothing_spare_it_has_nothing() -> None:
    assert history(collected=("a",), packs=PACKED).spare_blobs() == set(THREE[1].state_blobs())


BRANCH = [session("d", "a", "x"), *THREE]


@pytest.mark.parametrize(
    ("keep", "kept"),
    [(None, {"c", "b", "a"}), (1, {"c"}), (2, {"c", "b"}), (9, {"c", "b", "a"})],
)
def test_head_and_n_before_it_are_kept(keep: int | None, kept: set[str]) -> None:
    assert history(BRANCH).kept(keep) == kept


def test_a_tagged_session_is_kept_wherever_it_is() -> None:
    assert history(BRANCH, tags={"best": "d"}).kept(1) == {"c", "d"}


def test_what_an_undo_can_bring_back_is_kept_unless_it_is_given_up() -> None:
    found = history(BRANCH, undoable=frozenset({"d"}))
    assert found.kept(1) == {"c", "d"}
    assert found.kept(1, undo=False) == {"c"}


def test_before_the_first_session_only_what_is_requested_is_kept() -> None:
    assert history(head=None).kept(None) == set()
    assert history(head=None, tags={"best": "b"}).kept(None) == {"b"}


def test_a_collected_session_is_not_kept() -> None:
    assert history(collected=("a",)).kept(None) == {"c", "b"}


def test_a_pack_is_broken_where_its_own_session_is_kept_and_its_reference_is_not() -> None:
    assert broken_references(PACKED, {"a", "c"}) == [PACKED[0]]
    assert broken_references(PACKED, {"a", "b", "c"}) == []
    assert broken_references(PACKED, {"b"}) == [PACKED[1]]
    assert broken_references(PACKED, set()) == []


@st.composite
def histories(draw: st.DrawFn) -> History:
    """Draw a tree of sessions, some stored as patches on later ones, some collected."""
    count = draw(st.integers(1, 8))
    names = "abcdefgh"[:count]
    sessions = [
        session(name, draw(st.sampled_from([None, *names[:place]])), "x")
        for place, name in enumerate(names)
    ]
    packs = tuple(
        Pack(name, draw(st.sampled_from(names[place + 1 :])), sha256(f"p{name}"))
        for place, name in enumerate(names[:-1])
        if draw(st.booleans())
    )
    some = st.frozensets(st.sampled_from(names))
    return history(
        sessions[::-1],
        draw(st.sampled_from([None, *names])),
        packs,
        tags={name: name for name in draw(some)},
        undoable=draw(some),
    )


def chain_of(found: History, session_id: str) -> list[str]:
    """Return a session, and those that its patches lead to."""
    chain = [session_id]
    while not found.has_files(found.session(chain[-1])):
        chain.append(found.packs[chain[-1]].reference)
    return chain


def plain_successor(found: History, session_id: str, kept: set[str]) -> str | None:
    """Compute what `History.successors` documents, step by step."""
    for line in [found.line(found.head), *(found.line(s.id) for s in found.live)]:
        if session_id in line:
            after = [i for i in line[: line.index(session_id)] if i in kept]
            if after:
                return after[-1]
    return None


@given(histories(), st.frozensets(st.sampled_from("abcdefgh")))
def test_every_session_has_the_successor_that_its_lines_say(found: History, some: set[str]) -> None:
    kept = set(some) & {s.id for s in found.live}
    expected = {s.id: plain_successor(found, s.id, kept) for s in found.sessions}
    assert found.successors(kept) == {s: new for s, new in expected.items() if new is not None}


@given(histories(), st.none() | st.integers(1, 4))
def test_what_is_kept_is_the_beginning_of_each_line(found: History, keep: int | None) -> None:
    ends = {found.head, *found.undoable}
    lines = {session for end in ends for session in found.line(end)[:keep]}
    assert found.kept(keep) == (lines | set(found.tags.values())) - set(found.collected)


@given(histories(), st.none() | st.integers(1, 4), st.booleans())
def test_all_kept_sessions_are_restorable_once_broken_references_are_stored_again(
    before: History, keep: int | None, undo: bool
) -> None:
    kept = before.kept(keep, undo=undo)
    broken = {pack.session for pack in broken_references(before.packs.values(), kept)}
    gone = {s.id for s in before.sessions} - kept
    after = replace(
        before,
        packs={s: p for s, p in before.packs.items() if s in kept and s not in broken},
        collected=dict.fromkeys(gone, "2026"),
    )
    needed = after.needed_blobs()
    for session_id in kept:
        chain = chain_of(after, session_id)
        assert set(chain) <= kept
        assert after.has_files(after.session(chain[-1]))
        assert set(after.session(chain[-1]).state_blobs()) <= needed.keys()
        for packed in chain[:-1]:
            assert after.packs[packed].patch in needed
        assert {e.expert.prototypes for e in after.session(session_id).entries} <= needed.keys()
    assert not needed.keys() & after.spare_blobs()


@given(histories(), st.none() | st.integers(1, 4))
def test_head_and_every_tag_are_always_kept(before: History, keep: int | None) -> None:
    kept = before.kept(keep, undo=False)
    assert kept >= set(before.tags.values())
    assert before.head is None or before.head in kept
    assert kept <= before.kept(keep) <= before.kept(None)
    brought_back = {s for end in before.undoable for s in before.line(end)[:keep]}
    assert before.kept(keep) - kept <= brought_back
    assert before.undoable - set(before.collected) <= before.kept(keep)
