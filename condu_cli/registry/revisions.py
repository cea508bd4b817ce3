"""Parse names of sessions: HEAD, a tag, an id or its beginning, each with optional steps back."""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from condu_cli.errors import NotFoundError, UsageError
from condu_cli.registry.manifest import short_id
from condu_cli.registry.names import validate_tag_name

MINIMUM_PREFIX = 4

_HEAD = ("@", "HEAD")
_REVISION = re.compile(r"([^~]+)(?:~(\d{1,9}))?")
_PREFIX = re.compile(rf"[0-9a-f]{{{MINIMUM_PREFIX},64}}")


class Revision(NamedTuple):
    """A parsed text like `@~2`: where it starts, and how many sessions to go back."""

    start: str
    steps: int

    @property
    def from_head(self) -> bool:
        """Whether it starts at HEAD."""
        return self.start in _HEAD


def parse_revision(text: str) -> Revision:
    """Parse `START` or `START~N`; raise NotFoundError for anything else."""
    match = _REVISION.fullmatch(text)
    if match is None:
        raise NotFoundError(
            f"{text!r} does not name a session",
            reason="not-a-session",
            name=text,
            digits=MINIMUM_PREFIX,
        )
    return Revision(match[1], int(match[2] or 0))


def match_start(start: str, ids: Sequence[str], tags: Mapping[str, str]) -> str:
    """Return the id that a tag points at, or the one that begins with `start`.

    Raises NotFoundError if there are none or several.
    """
    if start in tags:
        return tags[start]
    prefix = start.lower()
    if _PREFIX.fullmatch(prefix) is None:
        raise NotFoundError(
            f"{start!r} does not name a session",
            reason="not-a-session",
            name=start,
            digits=MINIMUM_PREFIX,
            tags=sorted(tags),
        )
    matches = [session_id for session_id in ids if session_id.startswith(prefix)]
    if not matches:
        raise NotFoundError(
            f"there is no session {start!r}", reason="no-such-session", session=start
        )
    if len(matches) > 1:
        raise NotFoundError(
            f"{start!r} names {len(matches)} sessions: " + ", ".join(map(short_id, matches)),
            reason="session-ambiguous",
            session=start,
            matches=matches,
        )
    return matches[0]


def validate_new_tag(name: str) -> str:
    """Return `name` if it can name a new tag; raise UsageError if it looks like a session."""
    validate_tag_name(name)
    if name in _HEAD or _PREFIX.fullmatch(name.lower()):
        raise UsageError(
            f"{name!r} cannot be the name of a tag: it looks like HEAD or a session's id",
            reason="tag-reads-like-session",
            name=name,
        )
    return name
