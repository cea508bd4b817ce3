"""Hints about learning, evaluating and predicting."""

from condu_cli.cli.hints.table import Facts, Hint, registry_option, zero_shot_way

RESUME = "condu learn --task {task!q} --resume{here}"
WITHOUT_MEASURING = "omit --keep, --patience and --validate-every"
TEACH = "Teach it one: condu learn --task NAME --data DIR{here}"


def _resume(facts: Facts) -> str:
    moved = facts.get("moved_to")
    resume = RESUME.replace("{here}", " --registry {moved_to!q}") if moved else RESUME
    return f"{resume} continues from there"


HINTS: dict[str, Hint] = {
    # What is asked for
    "two-lengths": "Pass either --epochs or --iterations",
    "learning-rate-not-positive": "Omit it to use the preset's",
    "epochs-out-of-range": "Try --epochs 1",
    "label-smoothing-out-of-range": "Omit it to use the paper's 0.2",
    "warmup-too-long": "Omit it to use the preset's share",
    "validation-share-out-of-range": "Omit it to use {usual}",
    "nothing-to-measure-on": f"Omit it to use {{usual}}, or {WITHOUT_MEASURING}",
    "none-to-hold-out": "Omit --keep, --patience and --validate-every, or train on more pictures",
    "none-held-out-readable": f"Replace them, or measure nothing: {WITHOUT_MEASURING}",
    "none-readable": "Replace the broken pictures",
    "image-size-fixed": "Omit --image-size",
    "too-few-prototype-images": "Try 100",
    "no-prototype-pictures": "Check --data",
    "lora-options-without-lora": "Add --method lora, or omit {options}",
    "lora-option-out-of-range": "Omit the option to use the base model's default",
    "quick-without-head": "Omit --quick",
    # The registry that it goes to
    "registry-of-other-kind": "Omit {options}, or name another --registry",
    "created-meanwhile": "Name another folder with --registry",
    "registry-path-not-writable": lambda facts: (
        f"Name another folder with {registry_option(facts)}"
    ),
    "registry-not-writable": lambda facts: (
        "Make it writable, free some space, or name another folder with " + registry_option(facts)
    ),
    "disk-too-full": lambda facts: (
        "Free some space (condu gc --dry-run{here} shows what could be removed), or name another "
        + registry_option(facts)
    ),
    "task-known": "Choose another name, or forget it first: condu forget {task!q}{here}",
    "base-differs": "Use the base model that the registry was made with (is CONDU_BASE set?), or "
    "another --registry",
    "lora-initialisation-differs": "Run condu doctor: the registry may have been made with other "
    "library versions",
    "needs-newer-condu": "Upgrade condu",
    # Training
    "diverged": "Lower the learning rate (it was --lr {learning_rate})",
    "expert-diverged": "Lower the learning rate (--lr)",
    "batch-too-small": "Raise --batch-size, or use fewer --devices",
    # Kept experts and unfinished trainings
    "training-interrupted": _resume,
    "run-of-other-parameters": "condu learn --task NAME --retrain{here} starts over",
    "pictures-changed": "Put them back, or start over: condu learn --task {task!q} --retrain{here}",
    "expert-waits": f"{RESUME} commits it; --retrain trains a new one instead",
    "run-waits": f"{RESUME} continues it; --retrain starts over",
    "nothing-to-resume": "Train one: condu learn --task NAME --data DIR{here}",
    "interrupted-while-committing": "condu log{here} shows where HEAD is",
    "expert-of-other-registry": "Move it to the folder trained/ of that registry",
    # Evaluating and predicting
    "no-tasks": lambda facts: TEACH + zero_shot_way(facts),
    "own-rule-cannot-vote": "Omit --rule, or choose --rule vote",
    "labels-rule-needs-labels": "Pass --labels 'cat,dog', without --task; or omit --rule",
    "threshold-out-of-range": "For instance --threshold 0.05",
    "threshold-with-labels": "Omit --threshold or --labels",
    "class-not-learned": "Name the classes as they were learned: --class-names FILE, or "
    "classes.json in DIR",
    "no-pictures-in-split": "Try --split train",
    "folder-without-pictures": "Check the path",
}
