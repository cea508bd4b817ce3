"""Hints about options and arguments that conflict, and about unexpected errors."""

from condu_cli.cli.hints.table import Hint

HINTS: dict[str, Hint] = {
    "usage": "See {help_command}",
    "value-empty": "Is a variable of your shell unset? A dot means the current folder",
    "option-of-init": "{option} is chosen once, when a registry is created; see condu init -h",
    "option-of-others": "{option} belongs to condu {commands}; see {help_command}",
    "output-failed": "Free some space, or send the results somewhere else",
    "unexpected": "Run it again with {variable}=1 and report what it prints",
    "interrupted": "Nothing that was committed is lost; condu log{here} shows where HEAD is",
    "options-exclude": "Choose one of them",
    "no-dry-run": "Run it without --dry-run",
    "nobody-to-ask": "Look with --dry-run first, then pass --yes",
    # learn and evaluate
    "no-task-named": "condu learn --task NAME --data DIR{here}",
    "task-named-twice": "Name every task once",
    "option-of-one-task": "Put each task's pictures in a folder of its name below --data-root",
    "data-of-one-task": "Name it: condu evaluate --task NAME --data DIR{here}",
    "resume-with-options": "Omit the others",
    "dry-run-downloads-nothing": "Omit --download; condu tasks NAME says which files go where",
    "not-a-known-task": "Known by name: {known}; any other takes --data DIR",
    # predict
    "inputs-failed": "The others were answered",
    "too-few-labels": "For instance --labels 'cat,dog'",
    # demo
    "demo-folder-not-free": "Name a folder that does not exist yet with --keep",
    "demo-interrupted": "Its registry is removed; condu demo --keep DIR keeps it",
    # init, history, export and import
    "compat-contradicted": "Omit one of the two",
    "codec-option-unknown": "--exact takes vectors, depthwise and names of parameters, "
    "separated by commas, or none; --trim a share from 0 to below 1",
    "no-tag-named": "condu tag{here} lists them",
    "empty-state-not-tagged": "Name a session: condu tag NAME SESSION{here}",
    "no-such-task-or-session": "condu ls{here} lists the tasks, condu log{here} the sessions",
    "empty-state-not-exported": "condu log{here} lists the sessions",
    "export-kinds": "Pass -o FILE with --task NAME for one expert, with --base for the base "
    "model, or with neither for the whole registry",
    "import-incomplete": "condu import --task NAME --weights FILE --class-names FILE{here}",
    "archive-with-options": "Import a checkpoint with --task NAME --weights FILE, without an "
    "ARCHIVE",
}
