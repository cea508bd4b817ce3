"""The JSON that programs read. Fields may be added; none may be renamed, removed or retyped.

Real commands run on a registry of two tasks of `tiny`. Commands that need torch are called in this
process, through main(), to import it only once; other commands run as subprocesses, and so do
`learn` and `predict` in the tests of `e2e`.
"""

import contextlib
import io
import json
import re
import subprocess
from pathlib import Path

import pytest
from json_shapes import (
    ARCHIVE,
    BACKUP,
    COLLECTION,
    DIFFERENCE,
    ERROR,
    EVALUATION,
    EXAMINATION,
    EXPORTED,
    IMPORTED,
    LEARNED,
    MOVED_HEAD,
    NEW_REGISTRY,
    NEW_SESSION,
    NUMBER,
    OPERATION,
    PREDICTION,
    PROGRESS,
    RESULTS,
    SESSION,
    SHOWN_TASK,
    STORAGE,
    TAG,
    TAGGED,
    TASK,
    VERIFICATION,
    misfits,
)
from made_registries import flip, made_expert, made_registry

from condu_cli.main import main
from condu_cli.workflows.opening import installation
from condu_cli.workflows.sessions.trained_experts import keep_expert

SESSION_ID = re.compile(r"[0-9a-f]{64}")
UTC_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)")


def assert_fields(record, shape) -> None:
    assert misfits(record, shape) == []


def documents(ran, code: int = 0) -> list:
    """Every line of stdout is one JSON document, and stderr is empty when all is well."""
    assert ran.returncode == code, ran.stderr
    if code == 0:
        assert ran.stderr == ""
    return [json.loads(line, parse_constant=pytest.fail) for line in ran.stdout.splitlines()]


def results(ran, code: int = 0) -> list:
    """Return the documents that are not progress events."""
    return [d for d in documents(ran, code) if not (isinstance(d, dict) and "event" in d)]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("contract")


@pytest.fixture(scope="module")
def condu(condu_in, place):
    """Run a command with --json in the module's folder and registry."""
    run = condu_in(place)
    return lambda *args: run(*args, "--json")


@pytest.fixture(scope="module")
def condu_here(place, cache_folder):
    """Do the same in this process."""

    def run(*args: str) -> subprocess.CompletedProcess:
        out, err = io.StringIO(), io.StringIO()
        with (
            pytest.MonkeyPatch.context() as patch,
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            patch.setenv("CONDU_REGISTRY", str(place / "registry"))
            patch.setenv("XDG_CACHE_HOME", str(cache_folder))
            patch.delenv("CONDU_BASE", raising=False)
            patch.chdir(place)
            with pytest.raises(SystemExit) as left:
                main([*args, "--json"])
        return subprocess.CompletedProcess(args, left.value.code, out.getvalue(), err.getvalue())

    return run


@pytest.fixture(scope="module")
def learned(condu_here, make_pictures, place):
    """What the two runs of `learn` printed: embedded shapes, and generated colours."""
    make_pictures(place / "colours", ("blue", "red"), 5, 16)
    few = ("--iterations", "3")
    return [
        condu_here("learn", "--task", "shapes", "--base", "tiny", *few),
        condu_here("learn", "--task", "colours", "--data", "colours", *few),
    ]


@pytest.fixture(scope="module")
def log(condu, learned) -> list:
    (listed,) = documents(condu("log"))
    return listed


@pytest.fixture(scope="module")
def routed(condu_here, learned):
    """Six pictures without a named task."""
    return condu_here("predict", "colours/blue/00.png", "colours/red", "--top", "2")


@pytest.fixture(scope="module")
def partial(condu_here, learned):
    """An existing picture and a missing one; a named task, and the user's own labels."""
    paths = ("gone.png", "colours/red/00.png")
    return condu_here("predict", *paths, "--task", "colours", "--labels", "sea,fire")


# learn


def test_learn_streams_progress_and_ends_with_a_summary(learned):
    for ran, task in zip(learned, ("shapes", "colours"), strict=True):
        *events, summary = documents(ran)
        for event in events:
            assert_fields(event, PROGRESS)
        assert_fields(summary, LEARNED)
        assert summary["task"] == task
        assert summary["iterations"] == 3
        assert SESSION_ID.fullmatch(summary["session"])


def test_progress_names_its_stages_and_the_last_step_of_training_its_loss(learned):
    events = documents(learned[0])[:-1]
    last = {event["event"]: event for event in events}
    assert list(last) == ["prototypes", "training", "choosing"]
    assert all(event["done"] == event["total"] for event in last.values())
    assert_fields(last["training"], {"loss": float, "images_per_second": NUMBER})


# log, ls, storage-report


def test_log_is_a_list_of_sessions_newest_first(log, learned):
    for session in log:
        assert_fields(session, SESSION)
        assert SESSION_ID.fullmatch(session["session"])
        assert UTC_TIME.fullmatch(session["created_at"])
        assert session["kind"] == "learn"
        assert session["tags"] == []
    assert [s["session"] for s in log] == [documents(r)[-1]["session"] for r in learned[::-1]]
    assert [s["task"] for s in log] == ["colours", "shapes"]
    assert [s["head"] for s in log] == [True, False]
    assert [s["parent"] for s in log] == [log[1]["session"], None]
    assert [s["stored"] for s in log] == ["files", "patch"]


def test_ls_is_a_list_of_tasks_in_the_order_of_learning(condu, log):
    (tasks,) = documents(condu("ls"))
    for task in tasks:
        assert_fields(task, TASK)
        assert 0 <= task["mask_density"] <= 1
    assert [(t["task"], t["classes"]) for t in tasks] == [("shapes", 5), ("colours", 2)]
    assert [t["session"] for t in tasks] == [log[1]["session"], log[0]["session"]]


def test_storage_report_is_one_object_whose_parts_add_up(condu, learned):
    (report,) = documents(condu("storage-report"))
    assert_fields(report, STORAGE)
    parts = ("unified", "mask", "prototype", "head", "history", "metadata", "trained")
    assert sum(report[f"{part}_bytes"] for part in parts) == report["total_bytes"]
    assert report["individual_ft_bytes"] == 2 * report["base_bytes"]
    assert [task["task"] for task in report["tasks"]] == ["shapes", "colours"]


# predict


def test_predict_is_one_object_per_picture_in_order(routed):
    found = results(routed)
    assert [p["path"] for p in found] == [
        "colours/blue/00.png",
        *(f"colours/red/0{index}.png" for index in range(5)),
    ]
    for prediction in found:
        assert_fields(prediction, PREDICTION)
        assert 0 <= prediction["probability"] <= 1


def test_the_best_answers_come_first_and_top_limits_them(routed):
    for prediction in results(routed):
        top = prediction["top"]
        assert len(top) == 2
        assert top[0] == {name: prediction[name] for name in ("label", "task", "probability")}
        assert top[0]["probability"] >= top[1]["probability"]


def test_the_experts_that_answered_are_named_with_their_similarity(routed):
    for prediction in results(routed):
        (expert,) = prediction["experts"]
        assert expert["task"] == prediction["task"]
        assert -1 <= expert["similarity"] <= 1


def test_predict_prints_one_object_per_picture_and_nothing_else(routed):
    for document in documents(routed):
        assert_fields(document, PREDICTION)


def test_own_labels_belong_to_no_task_and_a_named_expert_has_no_similarity(partial):
    (prediction,) = results(partial, code=3)
    assert_fields(prediction, PREDICTION)
    assert prediction["task"] is None
    assert {answer["label"] for answer in prediction["top"]} == {"sea", "fire"}
    assert prediction["experts"] == [{"task": "colours", "similarity": None}]


# evaluate


@pytest.mark.usefixtures("learned")
def test_evaluate_is_one_object_per_task(condu_here):
    found = results(condu_here("evaluate", "--label-space", "union"))
    for evaluation in found:
        assert_fields(evaluation, EVALUATION)
        assert evaluation["label_space"] == "union"
        assert 0 <= evaluation["accuracy"] <= 1
        assert sum(evaluation["routed_to"].values()) == evaluation["n"]
    assert [(e["task"], e["n"]) for e in found] == [("shapes", 100), ("colours", 2)]


# Sessions: show, diff, tag, forget, rename, gc, verify


@pytest.fixture
def made(tmp_path, condu_here):
    """Run commands on another registry, of three made-up experts, that a test may change."""
    registry = made_registry(tmp_path / "made", "birds", "cars", "digits")

    def run(*args: str, code: int = 0):
        (found,) = documents(condu_here(*args, "--registry", str(registry.path)), code)
        return found

    return registry, run


def test_show_of_a_task_has_its_history_newest_first(condu_here, log):
    (shown,) = documents(condu_here("show", "shapes"))
    assert_fields(shown, SHOWN_TASK)
    assert [moment["session"] for moment in shown["history"]] == [s["session"] for s in log]
    for moment in shown["history"]:
        assert UTC_TIME.fullmatch(moment["created_at"])


def test_show_of_a_session_is_its_manifest(made):
    registry, run = made
    shown = run("show", "@~1")
    session = registry.sessions()[1]
    assert shown == {"session": session.id, **session.manifest()}


def test_diff_is_one_object_with_a_record_per_task(made):
    registry, run = made
    run("rename", "cars", "vehicles")
    found = run("diff", "@~2", "@")
    assert_fields(found, DIFFERENCE)
    assert [(t["before"], t["after"], t["change"]) for t in found["tasks"]] == [
        ("birds", "birds", "changed"),
        ("cars", "vehicles", "renamed"),
        (None, "digits", "added"),
    ]
    assert found["after"] == registry.head().id


def test_tag_prints_what_it_did_and_the_list_of_tags(made):
    registry, run = made
    head = registry.head().id
    assert run("tag") == []
    assert run("tag", "good") == {"tag": "good", "session": head, "deleted": False}
    assert run("tag") == [{"tag": "good", "session": head}]
    assert run("log")[0]["tags"] == ["good"]
    gone = run("tag", "--delete", "good")
    assert gone == {"tag": "good", "session": head, "deleted": True}
    assert_fields(gone, TAGGED)
    assert_fields([{"tag": "good", "session": head}], [TAG])


@pytest.mark.parametrize(
    ("args", "kind", "task"),
    [
        (["forget", "cars"], "forget", "cars"),
        (["rename", "cars", "vehicles"], "rename", "vehicles"),
    ],
)
def test_forget_and_rename_print_the_new_session(made, args, kind, task):
    registry, run = made
    parent = registry.head()
    found = run(*args)
    assert_fields(found, NEW_SESSION)
    assert (found["kind"], found["task"], found["parent"]) == (kind, task, parent.id)
    assert found["session"] == registry.head().id
    assert found["drift"] == {e.name: e.drift for e in registry.head().entries}
    assert all(isinstance(drift, float) for drift in found["drift"].values())


def test_a_dry_forget_and_rename_print_what_they_would_do(made):
    _, run = made
    assert run("forget", "cars", "-n") == {"dry_run": True, "task": "cars"}
    assert run("rename", "cars", "x", "-n") == {"dry_run": True, "task": "cars", "to": "x"}


def test_gc_prints_what_it_removes_or_removed(made):
    registry, run = made
    gone = [session.id for session in registry.sessions()[1:]]
    plan = run("gc", "--keep", "1", "-n")
    done = run("gc", "--keep", "1", "--yes")
    for found, dry in ((plan, True), (done, False)):
        assert_fields(found, COLLECTION)
        assert (found["dry_run"], found["sessions"]) == (dry, gone)
        assert found["bytes"] == sum(file["bytes"] for file in found["files"])
    assert len(run("log")) == 1
    assert [s["stored"] for s in run("log", "--all")] == ["files", "removed", "removed"]


def test_verify_is_one_object_and_names_every_problem(made):
    registry, run = made
    sound = run("verify")
    assert_fields(sound, VERIFICATION)
    assert (sound["sound"], sound["problems"], sound["sessions"]) == (True, [], 3)
    assert run("verify", "--quick")["quick"] is True
    flip(registry.blobs.path(registry.head().shared), -1)
    found = run("verify", code=14)
    assert_fields(found, VERIFICATION)
    assert found["sound"] is False
    for problem in found["problems"]:
        assert all(SESSION_ID.fullmatch(session) for session in problem["sessions"])


def test_resume_streams_like_learn(made, condu_here):
    registry, _ = made
    keep_expert(registry, made_expert("flags"))
    ran = condu_here("learn", "--resume", "--registry", str(registry.path))
    (summary,) = results(ran)
    assert_fields(summary, {name: kind for name, kind in LEARNED.items() if name != "iterations"})
    assert summary["task"] == "flags"


# What knows no session yet, and what moves one


def test_rollback_prints_where_head_went_and_the_operations_are_a_list(made):
    registry, run = made
    new, old, _ = (session.id for session in registry.sessions())
    moved = run("rollback")
    assert_fields(moved, MOVED_HEAD)
    assert (moved["from"], moved["to"]) == (new, old)
    operations = run("log", "--operations")
    assert_fields(operations, [OPERATION])
    assert operations[0]["to"] == old


@pytest.mark.parametrize("args", [["bases"], ["tasks"], ["tasks", "eurosat"]])
def test_what_is_known_has_its_shape(made, args):
    _, run = made
    assert_fields(run(*args), RESULTS[args[0]][len(args) - 1].shape)


def test_doctor_says_of_each_check_whether_it_is_ok(made, monkeypatch):
    monkeypatch.setattr(installation, "LIBRARIES", ("safetensors",))  # imports it
    _, run = made
    found = run("doctor")
    assert_fields(found, EXAMINATION)
    assert found["ok"] == all(check["ok"] for check in found["checks"])


def test_init_prints_the_new_registry(condu_here, tmp_path):
    (found,) = documents(condu_here("init", "--base", "tiny", "--registry", str(tmp_path / "new")))
    assert_fields(found, NEW_REGISTRY)
    assert found["registry"] == str(tmp_path / "new")


def test_backup_prints_what_it_copied(made, tmp_path):
    _, run = made
    assert_fields(run("backup", str(tmp_path / "copy")), BACKUP)


def test_an_exported_registry_is_imported(condu_here, made, tmp_path):
    _, run = made
    assert_fields(run("export", "-o", str(tmp_path / "all.condu")), ARCHIVE)
    place = ("--registry", str(tmp_path / "again"))
    (found,) = documents(condu_here("import", str(tmp_path / "all.condu"), *place))
    assert_fields(found, ARCHIVE)


@pytest.mark.usefixtures("learned")
def test_an_expert_is_exported_and_imported_as_a_task(condu_here, tmp_path):
    file = str(tmp_path / "shapes.safetensors")
    (exported,) = documents(condu_here("export", "--task", "shapes", "-o", file))
    assert_fields(exported, EXPORTED)
    place = ("--registry", str(tmp_path / "other"), "--base", "tiny")
    ran = condu_here("import", "--task", "forms", "--weights", file, *place)
    *_, imported = (json.loads(line) for line in ran.stdout.splitlines())
    assert_fields(imported, IMPORTED)


# Errors


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (("log", "--nope"), 2),
        (("show", "nothing"), 4),
        (("log", "--registry", "nowhere"), 10),
    ],
)
@pytest.mark.usefixtures("learned")
def test_an_error_is_one_object_on_stderr_with_its_exit_code(condu, args, code):
    ran = condu(*args)
    assert ran.returncode == code
    assert ran.stdout == ""
    (line,) = ran.stderr.splitlines()
    document = json.loads(line)
    assert set(document) == {"error"}
    assert_fields(document["error"], ERROR)
    assert document["error"]["code"] == code
    assert "\n" not in document["error"]["message"]


def test_a_partial_failure_prints_the_answers_and_then_the_error(partial):
    (prediction,) = results(partial, code=3)
    assert prediction["path"] == "colours/red/00.png"
    (line,) = partial.stderr.splitlines()
    error = json.loads(line)["error"]
    assert_fields(error, ERROR)
    assert error["code"] == 3
    assert "gone.png" in error["message"]
