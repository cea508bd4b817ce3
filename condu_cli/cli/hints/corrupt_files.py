"""Hints about corrupt and missing files: only what helps, depending on who needs them."""

from condu_cli.cli.hints.table import Facts, Hint

SHOWN = 4
"""The most sessions to name; the newest are enough if a long history needs the file."""
RETRAIN = "condu learn --task {task!q} --data DIR --retrain{here}"


def _needed_file(facts: Facts) -> str:
    needed = facts.get("needed_by")
    if not isinstance(needed, list):  # only known: something is corrupt
        return "condu verify{here} lists every corrupt file"
    if not facts.get("at_fault"):  # the message names the file
        return f"Restore it from a backup; {_without(facts)}"
    return f"{_who(needed)}; restore it from a backup; {_without(facts)}"


def _who(needed: list[str]) -> str:
    """Name the files and the sessions."""
    more = f" and {len(needed) - SHOWN} more" if len(needed) > SHOWN else ""
    sessions = ", ".join(needed[:SHOWN]) + more
    if len(needed) == 1:
        return f"Session {sessions} needs {{at_fault}}"
    return f"Sessions {sessions} need {{at_fault}}"


def _without(facts: Facts) -> str:
    """Suggest how to manage without the file; never a rollback to a session that needs it."""
    if facts.get("head_needs"):
        if facts.get("sound_session"):
            return (
                "or go back to a session that does not need it: "
                "condu rollback {sound_session}{here}"
            )
        return (
            "otherwise learn the tasks again, since all earlier sessions depend on it too: "
            "condu rollback -n {sessions_back}{here} goes back to before the first"
        )
    if not facts.get("spare"):
        return "HEAD does not need it"
    if facts.get("keep") is None:
        return "HEAD does not need it, and condu gc --no-undo{here} removes the sessions that do"
    return (
        "HEAD does not need it, and condu gc --keep {keep} --no-undo{here} removes the sessions "
        "that do"
    )


def _unreadable(facts: Facts) -> str:
    return "Correct the permissions; otherwise " + _needed_file(facts)


def _kept_file(facts: Facts) -> str:
    if facts.get("in_backups"):
        return f"Restore the file from a backup, or train again: {RETRAIN}"
    return f"Start over: {RETRAIN}, or remove the file: rm {{path!q}}"


HINTS: dict[str, Hint] = {
    "blob-missing": _needed_file,
    "blob-unreadable": _unreadable,
    "blob-corrupt": _needed_file,
    "blob-not-restored": _needed_file,
    "patch-damaged": _needed_file,
    "session-damaged": _needed_file,
    "needed-file-damaged": _needed_file,
    "needed-file-missing": _needed_file,
    "copied-file-corrupt": _needed_file,
    "kept-file-unknown": "Remove it: rm {path!q}",
    "kept-file-corrupt": _kept_file,
    "expert-file-damaged": f"Train again: {RETRAIN}",
}
