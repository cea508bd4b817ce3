"""What every codec must support: everything that a registry does with experts.

A new codec needs only a line in `CODECS_UNDER_TEST`.
"""

import json
from dataclasses import replace

import numpy as np
import pytest
from codec_checks import oldest_first, problems, states, trimmed, values_of, within
from made_registries import decoded, flip, learn, made_config, made_expert, made_registry
from safetensors.numpy import load_file
from thirty_line_codec import PlainCodec

from condu_cli.backbone.base_models import load_base
from condu_cli.backbone.deltas import weights_of
from condu_cli.core.codecs.interface import EMPTY, Patching
from condu_cli.core.codecs.known import CODECS
from condu_cli.errors import IntegrityError
from condu_cli.registry.copies.backup import back_up_registry
from condu_cli.registry.manifest import CodecChoice
from condu_cli.registry.repository import Registry
from condu_cli.registry.rollbacks import Aim
from condu_cli.registry.storage import measure
from condu_cli.workflows.opening.workspace import Workspace, new_config
from condu_cli.workflows.sessions.coding import codec_for
from condu_cli.workflows.sessions.collecting import collect
from condu_cli.workflows.sessions.committing import commit_expert
from condu_cli.workflows.sessions.comparing import compare, task_history
from condu_cli.workflows.sessions.forgetting import forget, rename
from condu_cli.workflows.sessions.moving_head import roll_back
from condu_cli.workflows.sessions.states import open_state
from condu_cli.workflows.sessions.verification import verify
from condu_cli.workflows.transfers.archiving import export_registry, import_registry
from condu_cli.workflows.transfers.exporting import export_expert
from condu_cli.workflows.transfers.importing import Importer, ImportRequest

CODECS_UNDER_TEST = {
    "condu-float32": {},
    "condu-bfloat16": {"dtype": "bfloat16"},
    "condu-int8": {"dtype": "int8"},
    "condu-exact": {"exact": "vectors,depthwise"},
    "condu-default-float32": {"exact": "vectors,depthwise", "trim": "0.5"},
    "condu-default-bfloat16": {"dtype": "bfloat16", "exact": "vectors", "trim": "0.5"},
    "condu-default-int8": {"dtype": "int8", "exact": "vectors", "trim": "0.25"},
    "plain": {"codec": "plain"},
}
TASKS = ("birds", "cars", "flags")


@pytest.fixture(params=CODECS_UNDER_TEST)
def codec(request):
    """A codec, as `made_config` takes it."""
    return CODECS_UNDER_TEST[request.param]


@pytest.fixture
def registry(path, codec):
    return made_registry(path, *TASKS, **codec)


# Sessions


def test_the_first_expert_is_restored_within_its_precision(path, codec):
    registry = made_registry(path, **codec)
    expert = made_expert("birds")
    commit_expert(registry, expert, parent=None, command="learn")
    found = values_of(registry, registry.head(), "birds")
    assert list(found) == list(expert.delta)
    assert all(
        found[n].shape == v.shape and found[n].dtype == v.dtype for n, v in expert.delta.items()
    )
    options = registry.config.codec.options
    wanted = trimmed(expert.delta, options)
    assert within(found, wanted, 0 if options["dtype"] == "float32" else 0.02)
    for name, values in wanted.items():
        if options.get("exact") and values.ndim == 1:
            assert np.array_equal(found[name], values)


def test_what_a_session_decodes_to_never_changes(path, codec):
    registry, seen = made_registry(path, **codec), {}
    for task in TASKS:
        session = learn(registry, task)
        seen[session.id] = decoded(registry, session)
        assert states(registry) == seen
    assert problems(registry) == []


def test_an_entry_keeps_what_the_codec_says_of_it(registry):
    head = registry.head()
    codec = codec_for(registry.config, head)
    records = codec.describe(open_state(registry, head))
    assert [entry.record for entry in head.entries] == records
    assert all(json.loads(json.dumps(record)) == record for record in records)
    assert codec.describe(EMPTY) == []


def test_no_session_names_the_registrys_own_codec(registry):
    assert {session.codec for session in registry.sessions()} == {None}


def test_a_task_is_forgotten_and_can_be_restored(registry):
    before, head = states(registry), registry.head()
    done = forget(registry, "cars", "forget cars")
    assert [entry.name for entry in done.session.entries] == ["birds", "flags"]
    assert done.warnings == ()
    assert list(decoded(registry, done.session)) == ["birds", "flags"]
    assert problems(registry) == []
    roll_back(registry, Aim(head.id), "rollback")
    assert {i: s for i, s in states(registry).items() if i in before} == before
    assert problems(registry) == []


def test_the_last_task_can_be_forgotten_and_learned_again(path, codec):
    registry = made_registry(path, "birds", **codec)
    first = decoded(registry, registry.head())
    done = forget(registry, "birds", "forget birds")
    assert (done.session.entries, done.session.shared) == ((), None)
    assert decoded(registry, learn(registry, "birds")) == first
    assert problems(registry) == []


def test_a_task_is_renamed_and_nothing_else_changes(registry):
    before = decoded(registry, registry.head())
    done = rename(registry, "cars", "vans", "rename cars vans")
    before["vans"] = before.pop("cars")
    assert decoded(registry, done.session) == before
    assert problems(registry) == []


def test_head_goes_back_and_forth(registry):
    before, (first, second, third) = states(registry), oldest_first(registry)
    roll_back(registry, Aim(first.id), "rollback")
    assert registry.head() == first
    roll_back(registry, Aim(second.id), "rollback")
    roll_back(registry, Aim(undo=True), "rollback --undo")
    roll_back(registry, Aim(undo=True), "rollback --undo")
    assert registry.head() == third
    assert states(registry) == before
    assert problems(registry) == []


def test_sessions_are_compared(registry):
    first, _, third = oldest_first(registry)
    found = compare(registry, first, third)
    assert [(t.after, t.change) for t in found.tasks][1:] == [("cars", "added"), ("flags", "added")]
    assert 0 <= found.tasks[0].drift < 1
    codec = codec_for(registry.config, third)
    assert (found.tasks[0].mask_overlap is None) != isinstance(codec, Patching)
    same = compare(registry, third, third)
    assert [(t.change, t.drift) for t in same.tasks] == [("same", 0.0)] * 3
    moments = task_history([third, first], third.entry("birds"))
    assert [moment.record for moment in moments] == [
        session.entry("birds").record for session in (third, first)
    ]


# Files


def test_a_collection_keeps_what_it_must_and_removes_the_rest(registry):
    first, second, third = oldest_first(registry)
    registry.tag("first", first, "tag")
    before = {s.id: decoded(registry, s) for s in (first, third)}
    done = collect(registry, 1)
    assert [session.id for session in done.sessions] == [second.id]
    assert {s.id: decoded(registry, s) for s in (first, third)} == before
    found = verify(registry)
    assert (found.problems, found.leftovers) == ((), ())
    roll_back(registry, Aim(first.id), "rollback")
    assert decoded(registry, first) == before[first.id]


def test_a_byte_that_changed_is_found_and_nothing_is_built_on_it(registry):
    head = registry.head()
    part = head.entry("cars").part
    flip(registry.blobs.path(part), -1)
    found = verify(registry).problems
    assert f"blob {part}" in [problem.object for problem in found]
    with pytest.raises(IntegrityError):
        learn(registry, "other")
    assert registry.head() == head


def test_a_record_that_does_not_fit_the_blob_is_found(registry, monkeypatch):
    from condu_cli.workflows.sessions import committing

    real = committing.TaskEntry

    def wrong(**values):
        record = dict.fromkeys(values["record"], 0.123456)
        return real(**{**values, "record": record})

    monkeypatch.setattr(committing, "TaskEntry", wrong)
    session = learn(registry, "other")
    (problem,) = [p for p in verify(registry).problems if p.sessions == (session.id,)]
    assert "as recorded" in problem.reason


def test_a_backup_is_the_registry_again(registry, tmp_path):
    back_up_registry(registry, tmp_path / "backup", lambda *_: None)
    copy = Registry.open(tmp_path / "backup")
    assert states(copy) == states(registry)
    assert problems(copy) == []


def test_an_archive_becomes_the_registry_again(registry, tmp_path):
    forget(registry, "cars", "forget cars")
    export_registry(registry, tmp_path / "all.condu", overwrite=False)
    import_registry(tmp_path / "all.condu", tmp_path / "other")
    other = Registry.open(tmp_path / "other")
    assert other.head() == registry.head()
    assert states(other) == states(registry)
    assert problems(other) == []


def test_the_storage_report_counts_every_byte(registry):
    found = measure(registry)
    lines = (
        *(found.unified_bytes, found.mask_bytes, found.prototype_bytes, found.history_bytes),
        *(found.metadata_bytes, found.trained_bytes, found.run_bytes),
    )
    assert sum(lines) == found.total_bytes == sum(file.bytes for file in found.files)
    assert [task.task for task in found.tasks] == list(TASKS)
    assert all(task.part_bytes > 0 for task in found.tasks)
    assert (found.unified_bytes > 0) == (registry.head().shared is not None)


# Experts in and out, of a model that can be loaded


@pytest.fixture(scope="module")
def base():
    return load_base("tiny")


def test_an_expert_is_exported_and_imported(path, tmp_path, codec, base):
    config = replace(new_config(base), codec=made_config(**codec).codec)
    shapes = {parameter.name: parameter.shape for parameter in config.parameters}
    registry = Registry.create(path, config)
    expert = made_expert("birds", shapes=shapes)
    commit_expert(registry, expert, parent=None, command="learn")
    workspace = Workspace(registry)
    file = tmp_path / "birds.safetensors"
    export_expert(workspace, workspace.head(), "birds", file)

    tensors = load_file(file)
    delta = values_of(registry, registry.head(), "birds")
    for name, weights in weights_of(base).items():
        assert np.array_equal(tensors[name], weights + delta[name]), name

    Importer(path, ImportRequest(task="again", weights=file)).plan().run()
    head = Registry.open(path).head()
    assert (head.kind, [entry.name for entry in head.entries]) == ("import", ["birds", "again"])
    wanted = trimmed(delta, registry.config.codec.options)
    assert within(values_of(registry, head, "again"), wanted, 0.05)
    assert problems(registry) == []


# The command line


def test_ls_lists_the_records(registry, condu):
    entries = registry.head().entries
    listed = (
        {"rescaler", "mask_density"}
        if entries[0].record.keys() >= {"rescaler"}
        else {"dtype", "largest"}
    )
    for entry, task in zip(entries, condu("ls", "--json").json, strict=True):
        assert task["task"] == entry.name
        assert {key: task[key] for key in listed} == {key: entry.record[key] for key in listed}
    text = condu("ls").text
    assert all(name.replace("_", " ") in text for name in (*listed, *TASKS))


def test_show_shows_the_record_and_how_it_changed(registry, condu):
    head = registry.head()
    shown = condu("show", "birds", "--json").json
    record = head.entry("birds").record
    assert {key: shown[key] for key in record} == record
    assert [{key: moment[key] for key in record} for moment in shown["history"]] == [
        dict(session.entry("birds").record) for session in registry.sessions()
    ]
    text = condu("show", "birds").text
    assert all(key.split("_")[0].lower() in text.lower() for key in record)
    assert condu("show", "--json").json == {"session": head.id, **head.manifest()}
    assert head.id in condu("show").text


@pytest.mark.parametrize("command", [("log",), ("storage-report",), ("verify",), ("diff", "@~1")])
def test_the_other_commands_work_in_both_forms(registry, condu, command):
    assert registry.head().id[:12] in condu("log").text
    assert condu(*command, "--json").json is not None
    assert condu(*command).text


# Once per command


def test_a_codec_is_built_once_however_often_it_is_asked_for(path, monkeypatch):
    built = []

    class Counted(PlainCodec):
        name = path.parent.name  # a different one in every test

        def __init__(self, layout, options):
            built.append(options)
            super().__init__(layout, options)

    monkeypatch.setitem(CODECS, Counted.name, Counted)
    registry = Registry.create(path, replace(made_config(), codec=CodecChoice(Counted.name)))
    for task in TASKS:
        learn(registry, task)
    assert problems(registry) == []
    assert len(built) == 1
