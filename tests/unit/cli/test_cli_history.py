"""`log`, `show`, `rollback`, `tag`, `diff`, `forget`, `rename`: sessions as people see them."""

import json
import os
import shutil
from dataclasses import replace

import pytest
from made_registries import learn, made_expert, made_registry

from condu_cli.registry.repository import Registry
from condu_cli.workflows.sessions.collecting import collect
from condu_cli.workflows.sessions.trained_experts import keep_expert


@pytest.fixture
def registry(tmp_path) -> Registry:
    """Three sessions in the default place."""
    return made_registry(tmp_path / "registry", "birds", "cars", "digits")


def document(ran):
    assert ran.code == 0, ran.err
    assert ran.err == ""
    (line,) = ran.out.splitlines()
    return json.loads(line)


def error(ran, code: int, *parts: str) -> None:
    assert (ran.code, ran.out) == (code, ""), ran.out + ran.err
    assert ran.err.startswith("error: ")
    for part in parts:
        assert part in ran.err


# log


def test_log_says_how_each_session_is_stored(condu, registry):
    registry.tag("good", registry.sessions()[1], "tag")
    records = document(condu("log", "--json"))
    assert [r["stored"] for r in records] == ["files", "patch", "patch"]
    assert [r["tags"] for r in records] == [[], ["good"], []]
    lines = condu("log").out.splitlines()
    assert any("HEAD" in line and "files" in line for line in lines)
    assert any("good" in line and "patch" in line for line in lines)


def test_log_marks_what_was_rolled_back(condu, registry):
    assert condu("rollback").code == 0
    assert "rolled back" in condu("log").out
    records = document(condu("log", "--json"))
    assert [(r["head"], r["current"]) for r in records] == [
        (False, False),
        (True, True),
        (False, True),
    ]


def test_rollback_says_what_it_did_and_how_to_undo_it(condu, registry):
    new, old = (session.id[:12] for session in registry.sessions()[:2])
    back = condu("rollback")
    assert back.out.startswith(f"HEAD moved from {new} ")
    assert f" to {old} " in back.out
    assert "condu rollback --undo" in back.err
    forth = condu("rollback", "--undo")
    assert forth.out.startswith(f"HEAD moved from {old} ")
    assert "condu rollback SESSION" in forth.err
    assert registry.head().id.startswith(new)


def test_rollback_says_the_move_itself_whatever_others_did_around_it(condu, registry, monkeypatch):
    new, old = (session.id[:12] for session in registry.sessions()[:2])
    real = Registry.head

    def head(found):
        """Other processes move HEAD whenever the lock is free."""
        assert found._lock.held
        return real(found)

    monkeypatch.setattr(Registry, "head", head)
    out = condu("rollback").out
    assert out.startswith(f"HEAD moved from {new} ")
    assert f" to {old} " in out


def test_a_corrupt_expert_that_waits_does_not_keep_tasks_from_being_listed(condu, registry):
    path = keep_expert(registry, made_expert("flags")).path
    path.write_bytes(b"no tensors")
    listed = condu("ls")
    assert listed.code == 0
    assert "birds" in listed.out
    assert "trained, not committed: flags" in listed.err
    assert condu("ls", "--json").code == 0


def test_a_storage_report_without_blobs_says_so(condu, registry):
    shutil.rmtree(registry.paths.blobs)
    told = condu("storage-report")
    assert told.code == 0
    assert "blobs/" in told.err
    assert document(condu("storage-report", "--json"))["unified_bytes"] == 0


def test_a_head_beside_an_expert_is_shown_and_counted(condu, registry):
    words = {word for line in condu("storage-report").out.splitlines() for word in line.split()}
    assert not words & {"head", "heads"}
    assert "head blob" not in condu("show", "birds").out
    learn(registry, "flags", head=True)
    expert = registry.head().entry("flags").expert
    report = condu("storage-report").out.splitlines()
    assert ["heads", str(registry.blobs.size(expert.head))] in [line.split()[:2] for line in report]
    (table,) = [line.split() for line in report if line.split()[:1] == ["task"]]
    assert table[-1] == "head"
    assert expert.head in condu("show", "flags").out
    assert document(condu("show", "flags", "--json"))["expert"]["head"] == expert.head
    sizes = {t["task"]: t["bytes"] for t in document(condu("ls", "--json"))}
    own = (registry.head().entry("flags").part, expert.prototypes, expert.head)
    assert sizes["flags"] == sum(registry.blobs.size(sha256) for sha256 in own)


def test_log_leaves_out_removed_sessions_unless_all_is_asked_for(condu, registry):
    collect(registry, 1)
    assert len(document(condu("log", "--json"))) == 1
    records = document(condu("log", "--all", "--json"))
    assert [r["stored"] for r in records] == ["files", "removed", "removed"]
    assert "removed" in condu("log", "--all").out


def test_the_journal_names_tags_and_collections(condu, registry):
    condu("tag", "good")
    condu("tag", "--delete", "good")
    condu("gc", "--keep", "1", "--yes")
    kinds = [r["kind"] for r in document(condu("log", "--operations", "--json"))]
    assert kinds[:3] == ["gc", "untag", "tag"]


# show


def test_show_has_the_history_of_a_task(condu, registry):
    record = document(condu("show", "birds", "--json"))
    assert [m["session"] for m in record["history"]] == [s.id for s in registry.sessions()]
    assert [m["changed_by"] for m in record["history"]] == ["digits", "cars", "birds"]
    out = condu("show", "birds").out
    assert "history, newest first" in out
    assert "learn digits" in out


def test_show_names_the_folder_that_this_machine_knows(condu, registry):
    learn(registry, "flags", folder="/pictures/flags")
    assert "/pictures/flags" in condu("show", "flags").out
    assert document(condu("show", "flags", "--json"))["folder"] == "/pictures/flags"
    assert "a folder on another machine" in condu("show", "birds").out


def test_show_takes_a_tag(condu, registry):
    second = registry.sessions()[1]
    registry.tag("good", second, "tag")
    assert document(condu("show", "good", "--json"))["session"] == second.id


# tag


def test_a_tag_is_made_listed_used_and_removed(condu, registry):
    third, second, _ = registry.sessions()
    assert "no tags yet" in condu("tag").out
    ran = condu("tag", "good", "@~1")
    assert ran.out.startswith(f"Tagged {second.id[:12]} (birds, cars) as good")
    assert "condu tag --delete good" in ran.err
    assert "good" in condu("tag").out
    assert document(condu("tag", "--json")) == [{"tag": "good", "session": second.id}]
    assert condu("rollback", "good").code == 0
    assert registry.head() == second
    ran = condu("tag", "--delete", "good")
    assert f"Removed tag good; it was at session {second.id[:12]}" in ran.out
    assert registry.tags() == {}
    assert document(condu("tag", "head", third.id, "--json"))["session"] == third.id


@pytest.mark.parametrize(
    ("args", "code", "parts"),
    [
        (["good", "ffff"], 4, ["ffff"]),
        (["good", "@~3"], 2, ["empty state", "cannot be tagged"]),
        (["--delete"], 2, ["needs the NAME"]),
        (["--delete", "bad"], 4, ["no tag 'bad'"]),
        (["HEAD"], 2, ["HEAD"]),
        (["abcdef12"], 2, ["looks like"]),
        (["taken"], 2, ["already"]),
    ],
)
def test_wrong_tags_are_refused(condu, registry, args, code, parts):
    registry.tag("taken", registry.head(), "tag")
    error(condu("tag", *args), code, *parts)
    assert list(registry.tags()) == ["taken"]


# diff


def test_diff_compares_head_with_the_session_before(condu, registry):
    record = document(condu("diff", "--json"))
    third, second, _ = registry.sessions()
    assert (record["before"], record["after"]) == (second.id, third.id)
    changes = {task["task"]: task["change"] for task in record["tasks"]}
    assert changes == {"birds": "changed", "cars": "changed", "digits": "added"}
    out = condu("diff").out
    assert "mask overlap" in out
    assert "in the first session" in out


def test_diff_names_a_renamed_task(condu, registry):
    condu("rename", "cars", "vehicles")
    assert "renamed from cars" in condu("diff").out


def test_diff_takes_any_two_sessions_and_the_empty_state(condu, registry):
    record = document(condu("diff", "@~3", "@~1", "--json"))
    assert record["before"] is None
    assert {task["change"] for task in record["tasks"]} == {"added"}
    error(condu("diff", "@~9"), 4, "@~9")


# forget and rename


def test_forgetting_says_what_changed_and_how_to_undo_it(condu, registry):
    ran = condu("forget", "cars")
    head = registry.head()
    assert f"Forgot cars in session {head.id[:12]}" in ran.out
    assert "moved by at most" in ran.out
    assert "condu rollback" in ran.err
    assert [entry.name for entry in head.entries] == ["birds", "digits"]


def test_renaming_says_what_changed(condu, registry):
    ran = condu("rename", "cars", "vehicles")
    assert "Renamed cars to vehicles in session" in ran.out
    assert "moved" not in ran.out
    assert [entry.name for entry in registry.head().entries] == ["birds", "vehicles", "digits"]


@pytest.mark.parametrize("args", [["forget", "cars"], ["rename", "cars", "vehicles"]])
@pytest.mark.parametrize("option", ["-n", "--dry-run"])
def test_a_dry_run_makes_no_session(condu, registry, args, option):
    head = registry.head()
    assert condu(*args, option).out.startswith("Would ")
    assert document(condu(*args, option, "--json"))["dry_run"] is True
    assert registry.head() == head


@pytest.mark.parametrize(
    ("args", "code", "parts"),
    [
        (["forget", "crs"], 4, ["crs", "Did you mean 'cars'"]),
        (["rename", "crs", "x"], 4, ["crs"]),
        (["rename", "cars", "digits"], 2, ["there is already a task 'digits'"]),
        (["rename", "cars", "a/b"], 2, ["a/b"]),
        (["forget"], 2, ["TASK"]),
    ],
)
@pytest.mark.parametrize("options", [[], ["--dry-run"]])
def test_wrong_names_are_refused(condu, registry, args, code, parts, options):
    head = registry.head()
    error(condu(*args, *options), code, *parts)
    assert registry.head() == head


# learn --resume


def test_resume_commits_what_waits_and_says_so(condu, registry):
    keep_expert(registry, made_expert("flags"))
    assert condu("learn", "--resume", "-n").out == "Would commit: flags\n"
    plan = document(condu("learn", "--resume", "-n", "--json"))
    assert [expert["task"] for expert in plan["waiting"]] == ["flags"]
    assert len(registry.head().entries) == 3
    ran = condu("learn", "--task", "flags", "--resume")
    assert "Learned flags in session" in ran.out
    assert [entry.name for entry in registry.head().entries][-1] == "flags"


def test_resume_prints_a_summary_for_each_expert(condu, registry):
    for task in ("flags", "shapes"):
        keep_expert(registry, made_expert(task))
    ran = condu("learn", "--resume", "--json")
    assert ran.code == 0, ran.err
    summaries = [json.loads(line) for line in ran.out.splitlines()]
    assert [s["task"] for s in summaries if "event" not in s] == ["flags", "shapes"]


def test_resume_with_nothing_waiting_ends_with_4(condu, registry):
    error(condu("learn", "--resume"), 4, "no trained expert is waiting", "condu learn --task NAME")
    error(condu("learn", "--task", "x", "--resume"), 4, "no trained expert of task 'x'")


def test_an_expert_that_was_committed_already_is_only_tidied_away(condu, registry):
    expert = made_expert("flags")
    waiting = keep_expert(registry, expert)
    content = waiting.path.read_bytes()
    assert condu("learn", "--resume").code == 0
    waiting.path.write_bytes(content)
    head = registry.head()
    ran = condu("learn", "--resume")
    assert ran.code == 0
    assert f"flags was already committed, in session {head.id[:12]}" in ran.out
    assert registry.head() == head
    assert registry.waiting.paths() == []
    waiting.path.write_bytes(content)
    record = json.loads(condu("learn", "--resume", "--json").out.splitlines()[-1])
    assert record == {"task": "flags", "session": head.id, "already": True}


def test_some_that_cannot_be_committed_end_with_3_after_the_others(condu, registry):
    known = registry.head().entries[0].name
    for seconds, (task, seed) in enumerate([("flags", 0), (known, 1), ("shapes", 0)]):
        path = keep_expert(registry, made_expert(task, seed)).path
        os.utime(path, (seconds, seconds))
    ran = condu("learn", "--resume")
    assert ran.code == 3
    assert "1 of 3 kept experts could not be committed" in ran.err
    assert "Learned flags" in ran.out
    assert "Learned shapes" in ran.out
    assert [entry.name for entry in registry.head().entries][-2:] == ["flags", "shapes"]
    assert [expert.task for expert in registry.waiting.all()] == [known]


@pytest.mark.parametrize(
    "options", [["--data", "x"], ["--retrain"], ["--iterations", "3"], ["--base", "tiny"]]
)
def test_resume_takes_no_option_of_a_training(condu, registry, options):
    keep_expert(registry, made_expert("flags"))
    head = registry.head()
    error(condu("learn", "--resume", *options), 2, "--resume continues with the original options")
    assert registry.head() == head
    assert [expert.task for expert in registry.waiting.all()] == ["flags"]


@pytest.mark.parametrize("loss", [None, float("nan")])
def test_an_imported_expert_that_waits_has_no_loss_and_is_committed_all_the_same(
    condu, registry, loss
):
    expert = made_expert("flags", kind="import")
    training = {**expert.training, "final_loss": loss}
    if loss is None:
        del training["final_loss"]
    keep_expert(registry, replace(expert, training=training))
    ran = condu("learn", "--resume", "--json")
    assert ran.code == 0, ran.err
    summary = json.loads(ran.out.splitlines()[-1], parse_constant=pytest.fail)
    assert summary["task"] == "flags"
    assert registry.head().kind == "import"
    condu("rollback")
    keep_expert(registry, replace(expert, training={**training, "run": "another"}))
    ran = condu("learn", "--resume")
    assert ran.code == 0, ran.err
    assert "nan" not in ran.out
