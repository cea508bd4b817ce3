"""Valid names of tasks, tags and blobs, checked before they become paths."""

import re

from condu_cli.errors import IntegrityError, UsageError

_TASK_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def validate_task_name(text: str) -> str:
    """Return `text` if it can name a task, else raise UsageError.

    Names appear in commands, in file names of exports and beside `@~1`-like session names, so
    separators, a leading dash and a leading @ are not allowed.
    """
    if is_task_name(text):
        return text
    raise UsageError(f"{text!r} cannot be the name of a task", reason="not-a-name", name=text)


def validate_tag_name(text: str) -> str:
    """Return `text` if it can name a tag, else raise UsageError."""
    if is_task_name(text):
        return text
    raise UsageError(f"{text!r} cannot be the name of a tag", reason="not-a-name", name=text)


def is_task_name(text: str) -> bool:
    """Return whether `text` can name a task."""
    return _TASK_NAME.fullmatch(text) is not None


def is_sha256(text: str) -> bool:
    """Return whether `text` is a sha256 in lower-case hex."""
    return _SHA256.fullmatch(text) is not None


def shown_id(text: object) -> str:
    """Return a session's id unchanged, and anything else escaped for a terminal."""
    return text if isinstance(text, str) and is_sha256(text) else ascii(text)[:80]


def validate_sha256(text: str) -> str:
    """Return `text` if it is a sha256 in lower-case hex, else raise IntegrityError."""
    if is_sha256(text):
        return text
    raise IntegrityError(f"{text!r} is not the name of a blob", reason="not-a-blob-name", name=text)
