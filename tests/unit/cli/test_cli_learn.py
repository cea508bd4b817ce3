"""`condu learn` on the command line: what options mean, and which exclude each other."""

import json
import sys
from dataclasses import replace

import pytest
import torch

from condu_cli.cli.writing.learning_words import report_summary
from condu_cli.cli.writing.output import Mode, Output
from condu_cli.train import launching
from condu_cli.workflows.learning import learner as workflow
from condu_cli.workflows.learning.estimating import Estimate
from condu_cli.workflows.learning.summaries import LearnSummary

NEW = ("learn", "--task", "colours", "--base", "tiny")


def assert_refused(ran, *words, code=2):
    said = ran.err.splitlines()
    assert (ran.code, ran.out) == (code, ""), ran.err
    assert [line.partition(":")[0] for line in said] == ["error", "hint"], ran.err
    for word in words:
        assert word in ran.err


@pytest.fixture
def plan(condu, colours, monkeypatch):
    """The plan of a dry run with some options and a fake estimate."""
    found = Estimate(1.0, 0.1, 1.0, 10**9, 10**6)
    monkeypatch.setattr(workflow.PlannedTask, "estimate", lambda *_: found)

    def run(*options):
        ran = condu(*NEW, "--data", colours, "--dry-run", "--json", *options)
        assert ran.code == 0, ran.err
        return json.loads(ran.out)

    return run


@pytest.fixture
def asked(condu, monkeypatch):
    """The arguments of the `Learner`s of a command line: (request, base, machine, retrain)."""
    calls = []

    class AskedError(Exception):
        pass

    class Learner:
        def __init__(self, path, request, base, machine, *, retrain):
            calls.append((request, base, machine, retrain))

        def draw(self):
            raise AskedError

    def run(*options):
        calls.clear()
        monkeypatch.setattr(workflow, "Learner", Learner)
        assert "AskedError" in condu("learn", *options).err
        return list(calls)

    return run


# The recipe

OVERRIDES = [
    ("--iterations", 7, "iterations"),
    ("--lr", 0.25, "learning_rate"),
    ("--batch-size", 3, "batch_size"),
    ("--accumulation", 2, "accumulation"),
    ("--warmup", 0, "warmup_iterations"),
    ("--warmup", 4, "warmup_iterations"),
    ("--weight-decay", 0.5, "weight_decay"),
    ("--clip-norm", 1.5, "clip_norm"),
    ("--label-smoothing", 0.0, "label_smoothing"),
    ("--label-smoothing", 0.3, "label_smoothing"),
    ("--precision", "float32", "precision"),
    ("--precision", "bfloat16", "precision"),
    ("--image-size", 32, "image_size"),
    ("--validate-every", 2, "validate_every"),
    ("--validation-share", 0.25, "validation_share"),
    ("--keep", "best", "keep"),
    ("--patience", 3, "patience"),
]


@pytest.mark.parametrize(("option", "value", "field"), OVERRIDES)
def test_every_value_of_the_recipe_can_be_overridden(plan, option, value, field):
    found = plan(option, value)
    assert found["recipe"][field] == value
    assert found["overridden"] == [field]


def test_without_options_the_preset_is_followed(plan):
    found = plan()
    assert found["overridden"] == []
    assert found["preset"] == "clip, full"
    assert found["recipe"]["seed"] == 0


def test_the_seed_and_the_first_template_are_the_recipes(plan):
    found = plan("--seed", 9, "--template", "a {} square.", "--template", "{}")
    assert found["recipe"]["seed"] == 9
    assert found["recipe"]["template"] == "a {} square."
    assert found["templates"] == ["a {} square.", "{}"]


def test_epochs_become_iterations(plan):
    assert plan("--epochs", 3, "--batch-size", 4)["recipe"]["iterations"] == 5  # of 6 pictures


def test_shots_and_a_limit_say_how_many_pictures(plan):
    def pictures(*options):
        found = plan(*options)
        return found["train_images"] + found["validation_images"]

    assert pictures("--shots", 2) == 4
    assert pictures("--limit", 5) == 5


def test_a_measurement_holds_pictures_out(plan):
    found = plan("--validation-share", 0.25)
    assert (found["train_images"], found["validation_images"]) == (6, 2)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--epochs", 1, "--iterations", 1), "--epochs or --iterations"),
        (("--epochs", 0), "--epochs must be above 0 and at most 1,000,000, not 0"),
        (("--epochs", "inf"), "--epochs must be above 0 and at most 1,000,000, not inf"),
        (("--lr", 0), "--lr must be above 0, not 0"),
        (("--label-smoothing", 1), "--label-smoothing must be from 0 to below 1, not 1"),
        (("--validation-share", 1), "--validation-share must be from 0 to below 1, not 1"),
        (("--image-size", 64), "pictures of 32 pixels"),
        (("--limit", 1), "--limit must be at least the 2 classes, not 1"),
        (("--template", "no place"), "must contain {} once"),
        (("--template", "a\tb {}"), r"the template 'a\tb {}' has the control character"),
        (("--iterations", 0), "--iterations"),
        (("--batch-size", 0), "--batch-size"),
        (("--keep", "worst"), "--keep"),
        (("--precision", "float8"), "--precision"),
        (("--devices", 0), "--devices"),
    ],
)
def test_a_value_that_makes_no_sense_is_refused(condu, colours, tmp_path, options, words):
    assert_refused(condu(*NEW, "--data", colours, *options), words)
    assert not (tmp_path / "registry").exists()


# The pictures and the machine


def test_classes_that_differ_in_case_alone_are_named_before_training(
    condu, tmp_path, make_pictures
):
    pictures = make_pictures(tmp_path / "pictures", ("Cat", "cat", "dog"), 3, 16)
    ran = condu(*NEW, "--data", pictures, "--quick")
    assert ran.code == 0, ran.err
    assert "warning: the classes 'Cat' and 'cat' differ only in case or spacing" in ran.err


def test_options_about_pictures_reach_the_request(asked, tmp_path):
    ((request, _, _, retrain),) = asked(
        "--task", "new", "--data", tmp_path, "--class-names", "names.txt", "--download",
        "--data-root", "sets", "--prototype-images", 5, "--max-unreadable", 0, "--workers", 0,
    )  # fmt: skip
    assert (request.task, request.data, str(request.data_root)) == ("new", tmp_path, "sets")
    assert (str(request.class_names), request.download) == ("names.txt", True)
    assert (request.prototype_images, request.max_unreadable, request.workers) == (5, 0, 0)
    assert retrain is False


def test_options_about_the_machine_reach_it(asked):
    ((_, _, machine, retrain),) = asked(
        "--task", "new", "--device", "cpu", "--save-every", 3, "--retrain"
    )
    assert (machine.device, machine.save_every, machine.team.size) == ("cpu", 3, 1)
    assert retrain is True
    ((_, _, machine, _),) = asked("--task", "new", "--device", "cpu")
    assert machine.save_every == 0  # by the clock


def test_a_dry_run_downloads_nothing(condu, tmp_path):
    ran = condu("learn", "--task", "eurosat", "--data-root", tmp_path, "--download", "--dry-run")
    assert_refused(ran, "--dry-run reads the pictures, but downloads nothing", "condu tasks")
    assert list(tmp_path.iterdir()) == []


# Tasks


def test_a_task_needs_a_name(condu, colours):
    assert_refused(condu("learn", "--data", colours), "the new task needs a name", "--task NAME")


def test_several_tasks_share_their_options(asked, tmp_path):
    calls = asked("--task", "a", "--task", "b", "--data-root", tmp_path, "--lr", 0.5, "--shots", 2)
    assert [request.task for request, *_ in calls] == ["a", "b"]
    assert {(r.data_root, r.shots, r.overrides["learning_rate"]) for r, *_ in calls} == {
        (tmp_path, 2, 0.5)
    }


def test_a_mistake_in_the_last_task_is_named_before_the_base_model_is_loaded(
    condu, colours, tmp_path, monkeypatch
):
    monkeypatch.setattr("condu_cli.workflows.opening.registry_kind.load_base", lambda *_: 1 / 0)
    (tmp_path / "a").symlink_to(colours, target_is_directory=True)
    (tmp_path / "b" / "only").mkdir(parents=True)
    tasks = ("--task", "a", "--task", "b", "--data-root", tmp_path)
    assert_refused(condu("learn", *tasks, "--base", "tiny"), "b: no pictures", code=15)


def test_a_task_that_is_named_twice_is_refused(condu, tmp_path):
    twice = ("--task", "a", "--task", "b", "--task", "a")
    assert_refused(condu("learn", *twice, "--data-root", tmp_path), "a task is named twice")


@pytest.mark.parametrize("option", ["--data", "--class-names", "--template"])
def test_what_belongs_to_one_task_is_refused_beside_several(condu, option):
    ran = condu("learn", "--task", "a", "--task", "b", option, "a {}")
    assert_refused(ran, f"{option} applies to a single task, but 2 are named", "--data-root")


# Going on


BESIDE_RESUME = [
    ("--seed", 0), ("--lr", 0.1), ("--iterations", 2), ("--warmup", 0), ("--label-smoothing", 0),
    ("--keep", "best"), ("--data", "."), ("--data-root", "."), ("--download",), ("--shots", 1),
    ("--template", "{}"), ("--max-unreadable", 0), ("--workers", 0), ("--retrain",),
    ("--base", "tiny"),
]  # fmt: skip


@pytest.mark.parametrize("option", BESIDE_RESUME, ids=lambda option: option[0])
def test_options_fixed_at_the_start_cannot_be_given_again(condu, option):
    assert_refused(
        condu("learn", "--resume", *option), "--resume continues with the original options"
    )


@pytest.mark.parametrize("options", [(), ("--task", "warm"), ("--save-every", 5)])
def test_where_nothing_was_interrupted_that_is_reported(condu, learned, options):
    ran = condu("learn", "--resume", "--device", "cpu", *options)
    assert_refused(ran, "no training was interrupted", code=4)


def test_a_dry_run_lists_what_would_resume(condu, learned):
    ran = condu("learn", "--resume", "--dry-run", "--json")
    assert ran.code == 0, ran.err
    assert json.loads(ran.out) == {"dry_run": True, "waiting": [], "unfinished": []}
    assert "Would resume training: none" in condu("learn", "--resume", "--dry-run").out


# The registry


OF_INIT = [
    "--method",
    "--train",
    "--rank",
    "--alpha",
    "--lora-targets",
    "--freeze-a",
    "--lora-seed",
]
OF_INIT += ["--dtype", "--rescaler", "--exact", "--trim", "--compat"]


@pytest.mark.parametrize("option", OF_INIT)
def test_what_a_registry_is_belongs_to_init(condu, colours, tmp_path, option):
    value = () if option == "--freeze-a" else (1,)
    ran = condu(*NEW, "--data", colours, option, *value)
    assert_refused(ran, f"No such option: {option}", "condu init -h")
    assert option not in condu("learn", "--help").out
    assert option in condu("init", "--help").out
    assert not (tmp_path / "registry").exists()


def test_an_option_of_other_commands_is_reported_as_theirs(condu, colours):
    ran = condu(*NEW, "--data", colours, "--labels", "cat,dog")
    assert_refused(ran, "--labels belongs to condu predict; see condu learn --help")


def test_the_base_model_of_a_new_registry_may_be_named(asked):
    assert [base for _, base, _, _ in asked("--task", "new", "--base", "tiny")] == ["tiny"]
    assert [base for _, base, _, _ in asked("--task", "new")] == [None]


# Processes


@pytest.fixture
def gpus(monkeypatch):
    def there_are(count):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(count))
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)

    return there_are


@pytest.fixture
def launched(monkeypatch):
    """What a launcher is asked to start; it returns exit code 15."""
    calls = []

    def launch(arguments, processes, *, cpu):
        calls.append((arguments, processes, cpu))
        return 15

    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setattr(launching, "launch", launch)
    return calls


@pytest.mark.parametrize("device", ["cuda", "auto"])
def test_more_processes_than_gpus_are_refused(condu, gpus, launched, device):
    gpus(2)
    ran = condu("learn", "--task", "new", "--devices", 3, "--device", device)
    assert_refused(ran, "--devices must be at most 2, the number of GPUs, not 3", "--device cpu")
    assert launched == []


@pytest.mark.parametrize(("device", "cpu"), [("cuda", False), ("auto", False), ("cpu", True)])
def test_several_processes_run_the_same_command_without_their_number(
    condu, gpus, launched, monkeypatch, device, cpu
):
    gpus(2)
    given = ["learn", "--task", "new", "--devices", "2", "--device", device]
    monkeypatch.setattr(sys, "argv", ["condu", *given])
    ran = condu(*given)
    assert (ran.code, ran.out, ran.err) == (15, "", "")
    assert launched == [(["learn", "--task", "new", "--device", device], 2, cpu)]


def test_one_process_needs_no_launcher(asked, launched):
    asked("--task", "new", "--devices", 1, "--device", "cpu")
    assert launched == []


# The report at the end

SUMMARY = LearnSummary(
    session="0123456789abcdef" * 4,
    task="warm",
    iterations=40,
    final_loss=0.4567,
    train_seconds=100.0,
    choosing_seconds=0.0,
    prototype_seconds=2.0,
    keep_seconds=0.5,
    unify_seconds=1.0,
    commit_seconds=1.5,
    pack_seconds=0.25,
    images=16,
    classes=2,
    tasks=3,
)


@pytest.fixture
def report(capsys):
    def run(mode=Mode.HUMAN, **values):
        report_summary(Output(mode), replace(SUMMARY, **values))
        return capsys.readouterr()

    return run


def test_the_summary_says_what_was_learned_and_what_comes_next(learned):
    assert learned.out.startswith("Learned warm in session ")
    assert "after 2 iterations; the registry holds 1 task\n" in learned.out
    assert "hint: condu evaluate --task warm measures it" in learned.err
    assert (
        "Learning warm from 6 pictures (2 more held out) of 2 classes: base tiny, a head, then 2 "
        in learned.err
    )


def test_the_summary_has_the_figures(report):
    said = report()
    first, second = said.out.splitlines()
    assert first == (
        "Learned warm in session 0123456789ab: loss 0.457 after 40 iterations; the registry holds "
        "3 tasks"
    )
    assert second.startswith("reading and prototypes 2.00 s, training 100 s, unify 1.00 s, commit ")
    assert "(unify and commit: 2.5 % of training)" in second
    assert "warning" not in said.err


def test_the_summary_has_the_accuracy_where_it_was_measured(report):
    assert "40 iterations, 87.5 % on held-out pictures;" in report(validation_accuracy=0.875).out


def test_the_summary_says_what_choosing_took(report):
    assert "training 100 s, choosing 30 s, unify" in report(choosing_seconds=30.0).out


def test_the_summary_says_that_a_beginning_was_replaced(report):
    assert "in session 0123456789ab, in place of its beginning: loss" in report(replaced=True).out


def test_an_unknown_loss_is_reported_as_unknown(report):
    assert "loss unknown after" in report(final_loss=None).out


def test_one_unreadable_picture_is_named(report):
    said = report(unreadable=("a.png: not a picture",)).err
    assert "warning: skipped 1 picture that could not be read: a.png: not a picture\n" in said


def test_of_many_unreadable_pictures_ten_are_named(report):
    reasons = tuple(f"{number}.png: not a picture" for number in range(12))
    said = report(unreadable=reasons).err
    assert "skipped 12 pictures that could not be read: 0.png: not a picture; 1.png" in said
    assert "9.png: not a picture; and 2 more (--json names all)" in said
    assert "10.png" not in said
    assert " more (" not in report(unreadable=reasons[:10]).err


def test_json_names_all_unreadable_pictures(report):
    reasons = [f"{number}.png: not a picture" for number in range(12)]
    said = report(Mode.JSON, unreadable=tuple(reasons))
    assert json.loads(said.out)["unreadable"] == reasons
    assert "12 pictures" in json.loads(said.err)["warning"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--validation-share", 0, "--keep", "best"), "holds out no picture"),
        (("--iterations", 5, "--warmup", 6), "--warmup must be at most the 5 iterations, not 6"),
    ],
)
def test_options_that_undo_each_other_are_refused(condu, colours, options, words):
    assert_refused(condu(*NEW, "--data", colours, *options), words)
