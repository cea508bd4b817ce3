"""From an error to what the user reads: the option at fault in front, and what to do next.

Imported only when something went wrong, or has to be advised on.
"""

from pathlib import Path

from condu_cli.cli.hints import commands, data, installation, learning, models, registry, transfers
from condu_cli.cli.hints.table import Facts, Hint
from condu_cli.cli.hints.templates import filled
from condu_cli.errors import ConduError

HINTS: dict[str, Hint] = {
    **registry.HINTS,
    **data.HINTS,
    **models.HINTS,
    **learning.HINTS,
    **transfers.HINTS,
    **installation.HINTS,
    **commands.HINTS,
}
"""What to do about a failure, by its reason."""

RIDERS: dict[str, Hint] = {
    "kept_expert": "the trained expert is kept: condu learn --task {kept_expert!q} "
    "--resume{here} commits it",
    "older_expert": lambda facts: (
        "the expert that was trained before is kept: "
        + ("remove {in_its_way}, and " if facts.get("in_its_way") else "")
        + "condu learn --task {older_expert!q} --resume{here} commits it"
    ),
}
"""What a hint ends with where an error has this fact, whatever its reason."""

OPTIONS = {"learning_rate": "--lr", "warmup_iterations": "--warmup"}
"""Options that are spelled otherwise than the library's parameters."""


def option_of(parameter: str) -> str:
    """Spell a parameter of the library as the command line's option."""
    return OPTIONS.get(parameter, "--" + parameter.replace("_", "-"))


def message_of(exc: ConduError) -> str:
    """What is wrong; a parameter at fault stands in front, spelled as an option."""
    parameter = exc.facts.get("parameter")
    if parameter is None:
        return exc.message
    option, rest = option_of(str(parameter)), exc.message.removeprefix(str(parameter))
    return f"{option}: {exc.message}" if rest == exc.message else option + rest


def hint_of(exc: ConduError, registry: Path | None = None) -> str:
    """What to do about an error; `registry` is the folder that --registry named, if it did."""
    return hint_for(exc.reason, exc.facts, registry)


def hint_for(reason: str, facts: Facts, registry: Path | None = None) -> str:
    """What to do about a failure that is not an exception, such as a check that failed."""
    riders = [hint for fact, hint in RIDERS.items() if facts.get(fact)]
    templates = [_template(hint, facts) for hint in (HINTS.get(reason, ""), *riders)]
    named = facts.get("parameters")
    options = [option_of(str(name)) for name in named] if isinstance(named, list) else []
    text = "; ".join(template for template in templates if template)
    return filled(text, {**facts, "options": options}, registry)


def _template(hint: Hint, facts: Facts) -> str:
    return hint if isinstance(hint, str) else hint(facts)
