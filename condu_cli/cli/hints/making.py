"""Turn an error into what the user reads: a message that names the option, and a hint.

Imported only when there is an error or a failed check to explain.
"""

from pathlib import Path

from condu_cli.cli.hints import (
    commands,
    corrupt_files,
    data,
    installation,
    learning,
    models,
    registry,
    transfers,
)
from condu_cli.cli.hints.table import Facts, Hint
from condu_cli.cli.hints.templates import filled
from condu_cli.errors import ConduError

HINTS: dict[str, Hint] = {
    **registry.HINTS,
    **corrupt_files.HINTS,
    **data.HINTS,
    **models.HINTS,
    **learning.HINTS,
    **transfers.HINTS,
    **installation.HINTS,
    **commands.HINTS,
}
"""Hints by reason."""

RIDERS: dict[str, Hint] = {
    "kept_expert": "the trained expert is kept: condu learn --task {kept_expert!q} "
    "--resume{here} commits it",
    "older_expert": lambda facts: (
        "the expert that was trained before is kept: "
        + ("remove {in_its_way}, and " if facts.get("in_its_way") else "")
        + "condu learn --task {older_expert!q} --resume{here} commits it"
    ),
    "demo_not_kept": "that registry was the demo's and is removed: condu demo --keep DIR keeps it",
}
"""Endings of hints by fact, whatever the error's reason."""

OPTIONS = {"learning_rate": "--lr", "warmup_iterations": "--warmup"}
"""Options whose spelling differs from the library's parameters."""


def option_of(parameter: str) -> str:
    """Return the option that stands for a parameter of the library."""
    return OPTIONS.get(parameter, "--" + parameter.replace("_", "-"))


def message_of(exc: ConduError) -> str:
    """Return an error's message, beginning with the offending option if there is one."""
    parameter = exc.facts.get("parameter")
    if parameter is None:
        return exc.message
    option, rest = option_of(str(parameter)), exc.message.removeprefix(str(parameter))
    return f"{option}: {exc.message}" if rest == exc.message else option + rest


def hint_of(exc: ConduError, registry: Path | None = None) -> str:
    """Return the hint for an error; `registry` is the value of --registry, if given.

    An error inside the demo is about the demo's registry, whatever --registry named.
    """
    own = exc.facts.get("demo_registry")
    if exc.facts.get("demo_not_kept"):
        own = "DIR"  # the folder that the rider suggests: the registry itself is gone
    return hint_for(exc.reason, exc.facts, registry if own is None else Path(str(own)))


def hint_for(reason: str, facts: Facts, registry: Path | None = None) -> str:
    """Return the hint for a failure that was not raised, such as a failed check."""
    riders = [hint for fact, hint in RIDERS.items() if facts.get(fact)]
    templates = [_template(hint, facts) for hint in (HINTS.get(reason, ""), *riders)]
    named = facts.get("parameters")
    options = [option_of(str(name)) for name in named] if isinstance(named, list) else []
    text = "; ".join(template for template in templates if template)
    return filled(text, {**facts, "options": options}, registry)


def _template(hint: Hint, facts: Facts) -> str:
    return hint if isinstance(hint, str) else hint(facts)
