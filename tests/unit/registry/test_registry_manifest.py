import dataclasses
import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from condu_cli.cli.hints.making import hint_of
from condu_cli.errors import NotFoundError, UsageError
from condu_cli.registry.manifest import (
    CodecChoice,
    Expert,
    ParameterShape,
    RegistryConfig,
    Session,
    TaskEntry,
    canonical_json,
    short_id,
)

EXPERT = Expert(("cat", "dog"), ("a photo of a {}.",), "1" * 64, {"seed": 1})
RECORD = {"rescaler": 1.5, "mask_density": 0.25, "l1_norm": 10.0}
ENTRY = TaskEntry("pets", EXPERT, "2" * 64, "a" * 64, RECORD, None)
SESSION = Session(
    id="c" * 64,
    parent="a" * 64,
    kind="learn",
    task="dtd",
    created_at="2026-01-01T00:00:00.000000Z",
    shared="3" * 64,
    entries=(ENTRY, dataclasses.replace(ENTRY, name="dtd", learned_in="c" * 64, part="4" * 64)),
    note={},
)


def test_d_is_the_number_of_trainable_numbers(config: RegistryConfig) -> None:
    assert config.parameter_count == 3 * 4 + 4
    assert ParameterShape("scalar", ()).size == 1
    assert ParameterShape("empty", (0, 7)).size == 0


def test_options_of_the_method_are_part_of_the_fingerprint(config: RegistryConfig) -> None:
    other = dataclasses.replace(config, method_options={"rank": 4})
    assert other.fingerprint() != config.fingerprint()
    empty = dataclasses.replace(config, method_options={})
    assert empty.fingerprint() == config.fingerprint()


@pytest.mark.parametrize(
    ("noted", "count"), [({}, 16), ({"model_parameters": 99}, 99), ({"model_parameters": True}, 16)]
)
def test_a_whole_checkpoint_has_the_parameters_that_the_method_notes(
    config: RegistryConfig, noted: dict[str, Any], count: int
) -> None:
    assert dataclasses.replace(config, method_options=noted).model_parameter_count == count


def test_parameters_have_different_names(config: RegistryConfig) -> None:
    with pytest.raises(ValueError, match="same name"):
        dataclasses.replace(config, parameters=config.parameters * 2)


def test_canonical_json_does_not_depend_on_the_order_of_keys() -> None:
    assert canonical_json({"b": 1, "a": [1.5, None, "é"]}) == '{"a":[1.5,null,"\\u00e9"],"b":1}'


def test_canonical_json_refuses_what_json_cannot_say() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json(math.nan)


@pytest.mark.parametrize(
    "change",
    [
        {"parent": None},
        {"kind": "import"},
        {"task": "pets"},
        {"created_at": "2026-01-01T00:00:00.000001Z"},
        {"shared": None},
        {"note": {"x": 1}},
        {"entries": ()},
        {"entries": tuple(reversed(SESSION.entries))},
        {"codec": CodecChoice("raw")},
    ],
)
def test_the_id_depends_on_every_field_of_a_session(change: dict[str, Any]) -> None:
    assert dataclasses.replace(SESSION, **change).computed_id() != SESSION.computed_id()


@pytest.mark.parametrize(
    "change",
    [
        {"name": "cats"},
        {"part": "5" * 64},
        {"learned_in": "b" * 64},
        {"record": {**RECORD, "rescaler": 1.5000000000000002}},
        {"record": {**RECORD, "mask_density": 0.5}},
        {"record": {}},
        {"codec_options": {"dtype": "float16"}},
        {"drift": 0.0},
        {"expert": dataclasses.replace(EXPERT, classes=("dog", "cat"))},
        {"expert": dataclasses.replace(EXPERT, templates=())},
        {"expert": dataclasses.replace(EXPERT, prototypes="6" * 64)},
        {"expert": dataclasses.replace(EXPERT, head="6" * 64)},
        {"expert": dataclasses.replace(EXPERT, training={"seed": 2})},
    ],
)
def test_the_id_depends_on_every_field_of_an_entry(change: dict[str, Any]) -> None:
    first, second = SESSION.entries
    changed = dataclasses.replace(SESSION, entries=(dataclasses.replace(first, **change), second))
    assert changed.computed_id() != SESSION.computed_id()


def test_the_id_does_not_contain_itself() -> None:
    renamed = dataclasses.replace(
        SESSION,
        id="d" * 64,
        entries=(ENTRY, dataclasses.replace(SESSION.entries[1], learned_in="d" * 64)),
    )
    assert renamed.computed_id() == SESSION.computed_id()


def test_a_session_knows_every_blob_it_needs() -> None:
    assert SESSION.blobs() == {"1" * 64, "2" * 64, "3" * 64, "4" * 64}
    without_shared = dataclasses.replace(SESSION, shared=None)
    assert without_shared.blobs() == {"1" * 64, "2" * 64, "4" * 64}


def test_an_entry_is_found_by_name() -> None:
    assert SESSION.entry("pets") is ENTRY


def test_an_unknown_task_names_the_known_ones_and_the_closest() -> None:
    with pytest.raises(NotFoundError) as missing:
        SESSION.entry("Pet")
    assert "'Pet'" in missing.value.message
    assert hint_of(missing.value) == "Did you mean 'pets'? Known tasks: pets, dtd"


def test_an_unknown_task_with_nothing_like_it_names_the_known_ones_only() -> None:
    with pytest.raises(NotFoundError) as missing:
        SESSION.entry("xyzzy")
    assert hint_of(missing.value) == "Known tasks: pets, dtd"


def test_an_unknown_task_in_an_empty_session_hints_at_learning_it() -> None:
    with pytest.raises(NotFoundError) as missing:
        dataclasses.replace(SESSION, entries=()).entry("pets")
    assert "condu learn --task pets" in hint_of(missing.value)


def test_a_short_id_is_twelve_digits() -> None:
    assert short_id("0123456789abcdef" * 4) == "0123456789ab"


def test_records_are_kept_as_json_gives_them_back() -> None:
    expert = dataclasses.replace(EXPERT, training={"splits": (1, 2), 3: "three"})
    assert expert.training == {"splits": [1, 2], "3": "three"}


def test_a_diverged_loss_is_recorded_as_null() -> None:
    expert = dataclasses.replace(EXPERT, training={"loss": math.nan, "worst": [math.inf]})
    assert expert.training == {"loss": None, "worst": [None]}


def test_a_record_does_not_change_with_the_mapping_it_was_made_from() -> None:
    training = {"seed": 1}
    expert = dataclasses.replace(EXPERT, training=training)
    training["seed"] = 2
    assert expert.training == {"seed": 1}


@pytest.mark.parametrize(
    "change",
    [
        {"drift": math.nan},
        {"part": "not a hash"},
    ],
)
def test_an_entry_with_impossible_figures_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        dataclasses.replace(ENTRY, **change)


@pytest.mark.parametrize("key", ["name", "expert", "part", "learned_in", "drift", "codec_options"])
def test_a_record_leaves_the_keys_of_entries_alone(key: str) -> None:
    with pytest.raises(ValueError, match=f"cannot have the key '{key}'"):
        dataclasses.replace(ENTRY, record={**RECORD, key: 1})


def test_an_entry_shows_the_codecs_record_among_its_own_keys() -> None:
    entry = ENTRY.to_json()
    assert {key: entry[key] for key in RECORD} == RECORD
    assert "codec_options" not in entry
    own = dataclasses.replace(ENTRY, codec_options={"dtype": "float16"}).to_json()
    assert own == {**entry, "codec_options": {"dtype": "float16"}}


def test_the_registrys_codec_is_not_named_by_a_session() -> None:
    assert "codec" not in SESSION.manifest()
    own = dataclasses.replace(SESSION, codec=CodecChoice("raw", {"dtype": "float16"}))
    assert own.manifest()["codec"] == {"name": "raw", "options": {"dtype": "float16"}}


def test_an_entry_with_an_impossible_name_is_refused() -> None:
    with pytest.raises(UsageError, match="a/b"):
        dataclasses.replace(ENTRY, name="a/b")


def test_an_expert_without_a_head_does_not_mention_it() -> None:
    assert "head" not in EXPERT.to_json()
    assert "head" not in EXPERT.blob_kinds().values()
    with_head = dataclasses.replace(EXPERT, head="7" * 64)
    assert with_head.to_json() == {**EXPERT.to_json(), "head": "7" * 64}
    assert with_head.blob_kinds() == {**EXPERT.blob_kinds(), "7" * 64: "head"}
    session = dataclasses.replace(SESSION, entries=(dataclasses.replace(ENTRY, expert=with_head),))
    assert session.blob_kinds()["7" * 64] == "head"


def test_a_head_is_a_blob() -> None:
    with pytest.raises(ValueError, match="head"):
        dataclasses.replace(EXPERT, head="file.safetensors")


def test_prototypes_are_a_blob() -> None:
    with pytest.raises(ValueError, match="prototypes"):
        dataclasses.replace(EXPERT, prototypes="file.safetensors")


def test_a_new_session_has_a_known_kind_and_no_task_twice() -> None:
    with pytest.raises(ValueError, match="kind"):
        Session.on(None, "merge", "pets", None, [])
    with pytest.raises(ValueError, match="same name"):
        Session.on(None, "learn", "pets", None, [ENTRY, ENTRY])
    with pytest.raises(ValueError, match="shared"):
        Session.on(None, "learn", "pets", "abc", [])


def test_a_new_session_is_named_by_its_content_and_its_new_experts_by_it() -> None:
    new = dataclasses.replace(ENTRY, name="new", learned_in=None)
    session = Session.on("c" * 64, "learn", "new", None, [ENTRY, new], note={"splits": (1, 2)})
    assert session.id == session.computed_id()
    assert [entry.learned_in for entry in session.entries] == [ENTRY.learned_in, session.id]
    assert session.note == {"splits": [1, 2]}


@given(st.floats(min_value=0, allow_nan=False, allow_infinity=False), st.booleans())
def test_whole_numbers_and_zeros_have_one_spelling(value: float, negative_zero: bool) -> None:
    """SQLite returns 1 as 1.0 and -0.0 as 0.0; this must not change the id."""
    spelled = -0.0 if negative_zero and value == 0 else value
    entry = dataclasses.replace(ENTRY, record={}, drift=int(spelled))
    text = canonical_json(entry.to_json())
    assert "-0.0" not in text
    assert isinstance(json.loads(text)["drift"], float)


@pytest.mark.parametrize("shape", [(-1,), (1.0,), (True,), ("3",), (None,)])
def test_a_parameter_has_a_shape_of_whole_numbers(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="whole numbers"):
        ParameterShape("w", shape)
    assert ParameterShape("w", ()).size == 1
