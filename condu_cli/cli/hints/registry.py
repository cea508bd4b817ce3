"""Hints about the registry, its files, copies and history."""

from condu_cli.cli.hints.table import Facts, Hint, registry_option, zero_shot_way

AGAIN = "Free some space or correct the permissions, then run the command again"
FAULTS = "condu verify{here} lists every corrupt object"
SESSIONS = "condu log{here} lists the sessions"
WAIT = "Wait for that command to finish, then run this one again"
NEW_FOLDER = "Name a folder that does not exist yet with --registry"
NAME_RULE = "Use 1 to 64 letters, digits, '.', '_' or '-', beginning with a letter or a digit"


def _writing(facts: Facts) -> str:
    return AGAIN + "; {consequence}" if facts.get("consequence") else AGAIN


def _upgrade(facts: Facts) -> str:
    if facts.get("writer"):
        return "Upgrade: pip install --upgrade 'condu>={writer}'"
    return "Upgrade: pip install --upgrade condu"


def _database(facts: Facts) -> str:
    copies = "; copies from before migrations are in backups/: {copies}"
    return "Restore condu.sqlite from a backup" + (copies if facts.get("copies") else "")


def _task(facts: Facts) -> str:
    if not facts.get("known"):
        return "No task has been learned yet: condu learn --task {task!q}{here}"
    if facts.get("similar"):
        return "Did you mean '{similar}'? Known tasks: {known}"
    return "Known tasks: {known}"


def _tag(facts: Facts) -> str:
    return "Tags: {known}" if facts.get("known") else "There are no tags"


def _session(facts: Facts) -> str:
    tag = "a tag ({tags})" if facts.get("tags") else "a tag"
    named = f"A session is named by at least {{digits}} digits of its id, {tag}, @ (HEAD) or @~N"
    return f"{named}; {SESSIONS}"


def _cannot_create(facts: Facts) -> str:
    option = registry_option(facts)
    other = " or CONDU_REGISTRY" if option == "--registry" else ""
    return f"Name a folder that you may write to with {option}{other}"


def _no_registry(facts: Facts) -> str:
    ways = (
        "Create one with condu init{here}, or by learning a first task: condu learn --task NAME "
        "--data DIR{here}; or name another with --registry"
    )
    return ways + zero_shot_way(facts)


def _head_moved(facts: Facts) -> str:
    return "" if facts.get("kept_expert") else "Nothing was committed; run the command again"


HINTS: dict[str, Hint] = {
    # Files
    "cannot-write": _writing,
    "cannot-remove": "Correct the permissions of the registry's folder, then run the command again",
    "cannot-lock": "Writing needs permission to create files in that folder",
    "lock-is-link": "Remove it; it holds nothing but the lock",
    "registry-locked": f"{WAIT}; the lock ends with the process",
    "symbolic-link": "Put the real file or folder there; the registry's own folder may be a link",
    "blob-changed": FAULTS,
    "blob-missing-for-head": "HEAD was not moved; condu verify{here} says what else is wrong",
    "not-a-blob-name": "A blob is named by the 64 hex digits of its sha256",
    "out-of-files": "No file is corrupt; allow more open files (ulimit -n 4096), or close other "
    "programs, then run the command again",
    "out-of-memory": "No file is corrupt; close other programs, then run the command again",
    # Creating and opening
    "no-registry": _no_registry,
    "registry-exists": "Use it with condu learn{here}, or name another folder with --registry",
    "before-first-session": SESSIONS,
    "registry-path-is-file": "Name another folder with --registry",
    "folder-not-free": NEW_FOLDER,
    "cannot-create-registry": _cannot_create,
    "registry-unfinished": "Its creation was interrupted; remove the folder and run condu init"
    "{here}",
    "registry-too-new": _upgrade,
    # The database
    "database-corrupt": _database,
    "database-missing": _database,
    "database-unusable": "Check that the disk has space and that you may write to the registry's "
    "folder",
    "schema-unknown": "Its creation was interrupted, or another program wrote it; move the folder "
    "away and run condu init{here}",
    "migration-leaves-orphans": "Nothing was changed; please report this",
    "cannot-migrate": "Nothing was changed; restore condu.sqlite from a backup",
    "record-altered": "Restore condu.sqlite from a backup",
    "session-altered": "Restore condu.sqlite from a backup",
    "session-missing": "Restore condu.sqlite from a backup",
    "patches-in-a-circle": "Restore condu.sqlite from a backup",
    "blob-size-differs": FAULTS,
    "prototypes-differ": FAULTS,
    "figures-differ": FAULTS,
    "expert-differs": "An expert's record never changes; learn the task again to replace it",
    # Sessions, tasks and tags
    "no-such-session": SESSIONS,
    "session-collected": SESSIONS,
    "too-far-back": SESSIONS,
    "head-there-already": SESSIONS,
    "steps-too-few": "Go back at least 1 session",
    "not-a-session": _session,
    "session-ambiguous": "Give more digits of the id",
    "nothing-to-undo": "Name the session to go to: condu rollback SESSION{here}; condu log{here} "
    "lists them all",
    "head-moved": _head_moved,
    "interrupted-after-commit": "condu gc{here} stores the session before it as a patch; "
    "condu rollback{here} undoes the commit",
    "moved-but-files-left": "Correct the permissions of the registry's folder; condu gc{here} then "
    "removes the files",
    "interrupted-after-move": "condu gc{here} removes the files that are no longer needed; "
    "condu log{here} lists the sessions",
    "no-such-task": _task,
    "task-name-in-use": "Choose another; see condu ls{here}",
    "not-a-name": NAME_RULE,
    "tag-exists": "Choose another name, or remove it first: condu tag --delete {tag!q}{here}",
    "no-such-tag": _tag,
    "tag-reads-like-session": "For instance condu tag before-cleanup{here}",
    # Backups and archives
    "backup-nested": "Name a folder outside the registry, ideally on another disk: condu backup "
    "DIR{here}",
    "not-a-backup": "Name a folder that does not exist yet, or an earlier backup: condu backup "
    "DIR{here}",
    "backup-has-other-sessions": "Name another folder: condu backup DIR{here}",
    "output-is-folder": "Name a file that does not exist yet",
    "output-in-registry": "Name a place outside the registry's folder",
    "output-exists": "Name another, or overwrite it: --force",
    "not-exportable": "An older version took it in; condu backup DIR{here} copies the registry as "
    "it is",
    "archive-corrupt": "Nothing was imported; download or copy the file again",
    "archive-too-new": _upgrade,
    # Not {here}: that is the registry to be created, from the archive of another one.
    "archive-unreadable": "Name a file that was exported with condu export -o FILE "
    "--registry OTHER",
    "archive-not-a-file": "Save it as a plain file first",
}
