"""Which session a text means: an id, the beginning of one, or a place before HEAD."""

import re
from collections.abc import Sequence

from condu_cli.errors import NotFoundError
from condu_cli.registry.manifest import short_id

MINIMUM_PREFIX = 4

_FROM_HEAD = re.compile(r"(?:@|HEAD)(?:~(\d{1,9}))?")
_PREFIX = re.compile(rf"[0-9a-f]{{{MINIMUM_PREFIX},64}}")
_HINT = "run `condu log` to see the sessions"


def steps_before_head(text: str) -> int | None:
    """Return N for `@~N` and `HEAD~N`, 0 for `@` and `HEAD`, None for anything else."""
    match = _FROM_HEAD.fullmatch(text)
    return None if match is None else int(match[1] or 0)


def match_prefix(text: str, ids: Sequence[str]) -> str:
    """Return the one id that begins with `text`; raise NotFoundError for none or several."""
    prefix = text.lower()
    if _PREFIX.fullmatch(prefix) is None:
        raise NotFoundError(
            f"{text!r} does not name a session",
            f"a session is named by at least {MINIMUM_PREFIX} digits of its id, "
            "by @ (HEAD) or by @~N; " + _HINT,
        )
    matches = [session_id for session_id in ids if session_id.startswith(prefix)]
    if not matches:
        raise NotFoundError(f"there is no session {text!r}", _HINT)
    if len(matches) > 1:
        raise NotFoundError(
            f"{text!r} names {len(matches)} sessions: " + ", ".join(map(short_id, matches)),
            "give more digits of the id",
        )
    return matches[0]
