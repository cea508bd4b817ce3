"""Hints about corrupt and missing files: only what helps, depending on who needs them."""

from condu_cli.cli.hints.table import Facts, Hint
from condu_cli.cli.writing.wording import plural

SHOWN = 4
"""The most sessions to name; the newest are enough if a long history needs the file."""
COLLECT = {
    (False, True): "condu gc{here}",
    (False, False): "condu gc --no-undo{here}",
    (True, True): "condu gc --keep {keep}{here}",
    (True, False): "condu gc --keep {keep} --no-undo{here}",
}
"""By whether it must keep fewer of HEAD's line, and whether what an undo restores may stay."""
RETRAIN = "condu learn --task {task!q} --data DIR --retrain{here}"


def _needed_file(facts: Facts) -> str:
    needed = facts.get("needed_by")
    if not isinstance(needed, list):  # only known: something is corrupt
        return "condu verify{here} lists every corrupt file"
    if not needed:
        return "No session needs it, and condu gc{here} removes it"
    restore = "restore it from a backup"
    if facts.get("unreadable"):
        restore = f"correct its permissions, or {restore}"
    who = f"{_who(needed)}; " if facts.get("at_fault") else ""  # else the message names the file
    advice = f"{who}{restore}; {_without(facts)}"
    return advice[0].upper() + advice[1:]


def _who(needed: list[str]) -> str:
    """Name the files and the sessions."""
    more = f" and {len(needed) - SHOWN} more" if len(needed) > SHOWN else ""
    sessions = ", ".join(needed[:SHOWN]) + more
    if len(needed) == 1:
        return f"Session {sessions} needs {{at_fault}}"
    return f"Sessions {sessions} need {{at_fault}}"


def _without(facts: Facts) -> str:
    """Suggest how to manage without the file; never a rollback to a session that needs it."""
    if not facts.get("head_needs"):
        return "HEAD does not need it" + (_removal(facts) if facts.get("removable") else "")
    if facts.get("only_task"):
        return "or condu forget {only_task}{here}, then learn that task again"
    if facts.get("sound_session"):
        return "or go to a session that does not need it: condu rollback {sound_session}{here}"
    last = "run condu rollback -n {sessions_back}{here} and learn the tasks again"
    if facts.get("not_restored") or facts.get("sessions_back") == 1:
        return f"otherwise {last}"
    return (
        "otherwise try condu rollback{here}, which restores the session before exactly or changes "
        f"nothing; the last resort is to {last}"
    )


def _removal(facts: Facts) -> str:
    """Suggest how gc can remove the sessions that need the file, and say what else goes."""
    collect = COLLECT[facts.get("keep") is not None, bool(facts.get("undo"))]
    intact = facts.get("intact")
    too = (
        f", and {plural(intact, 'intact session')} too"
        if isinstance(intact, int) and intact
        else ""
    )
    return f", and {collect} removes the sessions that do{too}"


def _unreadable(facts: Facts) -> str:
    if not isinstance(facts.get("needed_by"), list):
        return "Correct its permissions; otherwise " + _needed_file(facts)
    return _needed_file({**facts, "unreadable": True})


def _session(facts: Facts) -> str:
    restore = "Restore the registry from a backup"
    if facts.get("head_needs") and facts.get("sound_session"):
        return f"{restore}, or go to another session: condu rollback {{sound_session}}{{here}}"
    return restore


def _kept_file(facts: Facts) -> str:
    first = "Correct its permissions; otherwise " if facts.get("unreadable") else ""
    if facts.get("in_backups"):
        advice = f"Restore the file from a backup, or train again: {RETRAIN}"
    else:
        advice = f"Start over: {RETRAIN}, or remove the file: rm {{path!q}}"
    return first + (advice[0].lower() + advice[1:] if first else advice)


HINTS: dict[str, Hint] = {
    "blob-missing": _needed_file,
    "blob-unreadable": _unreadable,
    "blob-corrupt": _needed_file,
    "blob-not-restored": _needed_file,
    "patch-damaged": _needed_file,
    "session-damaged": _needed_file,
    "session-differs": _session,
    "needed-file-damaged": _needed_file,
    "needed-file-missing": _needed_file,
    "copied-file-corrupt": _needed_file,
    "kept-file-unknown": "Remove it: rm {path!q}",
    "kept-file-corrupt": _kept_file,
    "expert-file-damaged": f"Train again: {RETRAIN}",
}
