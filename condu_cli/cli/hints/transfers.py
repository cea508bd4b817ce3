"""Hints about importing and exporting single experts."""

from condu_cli.cli.hints.table import Hint

HINTS: dict[str, Hint] = {
    "experts-not-lora": "Omit --format for an ordinary checkpoint, or start a registry with "
    "condu init --method lora --registry PATH",
    "archive-is-checkpoint": "condu import --task NAME --weights {path!q}{here}",
    "not-a-model": "If it is a whole registry: condu import {path!q} --registry NEW_FOLDER",
    "not-weights-but-head": "Name the weights that it was exported with; the head is found beside "
    "them",
    "exported-head-missing": "Copy it there from where the expert was exported, or export the "
    "expert again, which writes both files",
    "exported-head-differs": "Both files must be of the same export: copy both again, or export "
    "the expert again",
    "exported-head-unreadable": "Correct its permissions, or copy it again",
    "exported-head-damaged": "Export the expert again, which writes both files",
    "exported-head-of-other-classes": "Omit --class-names, or name exactly these classes in any "
    "order; a JSON object from folder to name gives them other names",
    "not-an-adapter": "Import a PEFT adapter's folder (adapter_config.json, {weights}), or name a "
    "registry of --method full: --registry PATH",
    "not-whole-weights": "Make a registry for it first: condu init --method lora --rank N "
    "--registry PATH",
    "base-to-be-named": "Name them: --base {base!q}",
    "class-not-in-checkpoint": "Name the classes: --class-names FILE, or classes.json in DIR",
    "classes-unknown": "Name them in any order: --class-names FILE, one per line, or give "
    "--data DIR",
}
