"""Sessions in two codecs in one registry, and experts with options of their own."""

from dataclasses import replace

import numpy as np
import pytest
from codec_checks import oldest_first, problems, states, values_of, within
from made_registries import decoded, learn, made_registry

from condu_cli.core.codecs.interface import EMPTY, UnknownCodecError
from condu_cli.core.codecs.known import CODECS
from condu_cli.registry.copies.backup import back_up_registry
from condu_cli.registry.manifest import CodecChoice
from condu_cli.registry.repository import Registry
from condu_cli.registry.rollbacks import Aim
from condu_cli.workflows.sessions.coding import codec_for
from condu_cli.workflows.sessions.collecting import collect
from condu_cli.workflows.sessions.committing import session_of_state
from condu_cli.workflows.sessions.comparing import compare
from condu_cli.workflows.sessions.forgetting import forget, rename
from condu_cli.workflows.sessions.moving_head import roll_back
from condu_cli.workflows.sessions.states import open_state
from condu_cli.workflows.transfers.archiving import export_registry, import_registry

PLAIN = CodecChoice("plain", {"dtype": "float16"})


def convert(registry, choice, own=None):
    """Commit HEAD's experts in another codec, some with options of their own."""
    own, head = own or {}, registry.head()
    old = codec_for(registry.config, head)
    before, state = open_state(registry, head), EMPTY
    codec = CODECS[choice.name](old.layout, choice.options)
    for entry, part in zip(head.entries, before.parts, strict=True):
        delta = dict(old.decode(before.shared, part))
        state = codec.encode(state, delta, own.get(entry.name, {}))
    entries = [replace(e, drift=None, codec_options=own.get(e.name, {})) for e in head.entries]
    with registry.lock("convert"):
        session = session_of_state(
            registry, codec, state, entries, head.id, kind="convert", task="birds"
        )
        return registry.commit(session, command="convert")


@pytest.fixture
def mixed(path):
    """Two sessions in the registry's codec, one in another, and one built on that."""
    registry = made_registry(path, "birds", "cars")
    convert(registry, PLAIN, {"cars": {"dtype": "float32"}})
    learn(registry, "flags")
    return registry


def test_a_session_names_the_codec_that_is_not_the_registrys(mixed):
    assert [session.codec for session in oldest_first(mixed)] == [None, None, PLAIN, PLAIN]
    assert [entry.codec_options for entry in mixed.head().entries] == [{}, {"dtype": "float32"}, {}]
    assert [entry.record["dtype"] for entry in mixed.head().entries] == [
        "float16",
        "float32",
        "float16",
    ]


def test_one_task_is_kept_better_than_another(mixed):
    _, condu, plain, _ = oldest_first(mixed)
    exact, kept = values_of(mixed, condu, "cars"), values_of(mixed, plain, "cars")
    assert all(np.array_equal(exact[name], kept[name]) for name in exact)
    exact, kept = values_of(mixed, condu, "birds"), values_of(mixed, plain, "birds")
    assert any(not np.array_equal(exact[name], kept[name]) for name in exact)
    assert within(kept, exact, 1e-2)


def test_no_patch_is_made_across_codecs(mixed):
    first, second, third, fourth = oldest_first(mixed)
    collect(mixed, None)
    packs = mixed.packs()
    assert packs[first.id].reference == second.id
    assert second.id not in packs
    assert (packs[third.id].reference, packs[third.id].patch) == (fourth.id, None)
    assert problems(mixed) == []


def test_one_codec_with_other_options_is_another_code(path):
    """Its patches are read with the options of their own session, not with the registry's."""
    registry = made_registry(path, "birds", "cars")
    options = {"dtype": "int8", "rescaler": "tensor", "exact": "vectors", "trim": "0.25"}
    int8 = CodecChoice("condu", options)
    convert(registry, int8)
    for task in ("flags", "trees"):
        learn(registry, task)
    before, (first, second, third, fourth, fifth) = states(registry), oldest_first(registry)
    assert [s.codec for s in (first, second, third, fourth, fifth)] == [None, None, *[int8] * 3]
    collect(registry, None)
    packs = registry.packs()
    assert {i: pack.reference for i, pack in packs.items()} == {
        first.id: second.id,
        third.id: fourth.id,
        fourth.id: fifth.id,
    }
    assert all(pack.patch is not None for pack in packs.values())
    assert states(registry) == before
    assert problems(registry) == []
    roll_back(registry, Aim(third.id), "rollback")
    assert decoded(registry, registry.head()) == before[third.id]
    assert problems(registry) == []


def test_a_rollback_undoes_the_conversion_and_can_be_undone(mixed):
    before, (_, second, _, fourth) = states(mixed), oldest_first(mixed)
    roll_back(mixed, Aim(second.id), "rollback")
    assert states(mixed) == before
    assert problems(mixed) == []
    roll_back(mixed, Aim(undo=True), "rollback --undo")
    assert mixed.head() == fourth
    roll_back(mixed, Aim(second.id), "rollback")
    again = learn(mixed, "flags")
    assert again.codec is None
    assert {i: s for i, s in states(mixed).items() if i in before} == before
    assert problems(mixed) == []


def test_sessions_in_two_codecs_are_compared(mixed):
    _, second, third, _ = oldest_first(mixed)
    birds, cars = compare(mixed, second, third).tasks
    assert 0 < birds.drift < 1e-2
    assert cars.drift == 0.0
    assert birds.mask_overlap is None


def test_a_registry_of_two_codecs_is_collected_copied_and_archived(mixed, tmp_path):
    before = states(mixed)
    back_up_registry(mixed, tmp_path / "backup", lambda *_: None)
    assert states(Registry.open(tmp_path / "backup")) == before
    export_registry(mixed, tmp_path / "all.condu", overwrite=False)
    import_registry(tmp_path / "all.condu", tmp_path / "other")
    assert states(Registry.open(tmp_path / "other")) == before
    collect(mixed, 2, undo=False)
    live = mixed.history().live
    assert len(live) == 2
    assert {s.id: decoded(mixed, s) for s in live} == {s.id: before[s.id] for s in live}
    assert problems(mixed) == []


def test_forgetting_and_renaming_stay_in_the_sessions_codec(mixed):
    forgotten = forget(mixed, "birds", "forget birds").session
    renamed = rename(mixed, "cars", "vans", "rename cars vans").session
    assert forgotten.codec == renamed.codec == PLAIN
    assert renamed.entry("vans").codec_options == {"dtype": "float32"}
    assert problems(mixed) == []


def test_a_beginning_is_replaced_in_the_sessions_codec(path):
    registry = made_registry(path, "birds")
    learn(registry, "cars", quick=True)
    learn(registry, "flags")
    converted = convert(registry, PLAIN, {"flags": {"dtype": "float32"}})
    session = learn(registry, "cars", seed=1)
    assert session.codec == PLAIN
    assert [entry.name for entry in session.entries] == ["birds", "flags", "cars"]
    assert session.entry("flags").codec_options == {"dtype": "float32"}
    assert [entry.drift for entry in session.entries] == [0.0, 0.0, None]  # nothing is shared
    for task in ("birds", "flags"):
        old, new = (values_of(registry, s, task) for s in (converted, session))
        assert all(np.array_equal(old[name], new[name]) for name in old)
    assert problems(registry) == []


def test_show_says_which_codec_a_session_and_an_entry_have(mixed, condu):
    assert condu("show", "--json").json["codec"] == {
        "name": "plain",
        "options": {"dtype": "float16"},
    }
    assert "codec plain: dtype float16" in condu("show").text
    assert condu("show", "cars", "--json").json["codec_options"] == {"dtype": "float32"}
    assert "dtype float32" in condu("show", "cars").text


def test_an_option_that_the_codec_refuses_is_refused(path):
    registry = made_registry(path, "birds")
    with pytest.raises(UnknownCodecError):
        convert(registry, PLAIN, {"birds": {"colour": "red"}})
