"""What each command prints with --json: fields may be added, none renamed, removed or retyped.

A shape is a type, a tuple of types, a list of one shape (of which there may be any number), or a
mapping from field to shape. docs/cli.md is generated from these, and the contract's tests check
real output against them, so that the page is always true.
"""

from __future__ import annotations

from typing import Any, NamedTuple

Shape = Any

NUMBER = (int, float)
TEXT_OR_NULL = (str, type(None))
NUMBER_OR_NULL = (float, type(None))
INTEGER_OR_NULL = (int, type(None))

ANSWER = {"label": str, "task": TEXT_OR_NULL, "probability": float}
EXPERT = {"task": str, "similarity": NUMBER_OR_NULL}
PREDICTION = {
    "path": str,
    "label": str,
    "probability": float,
    "task": TEXT_OR_NULL,
    "unknown": bool,
    "top": [ANSWER],
    "experts": [EXPERT],
}
SESSION = {
    "session": str,
    "parent": TEXT_OR_NULL,
    "kind": str,
    "task": str,
    "created_at": str,
    "head": bool,
    "current": bool,
    "tasks": int,
    "tags": [str],
    "stored": str,
}
OPERATION = {
    "operation": int,
    "at": str,
    "kind": str,
    "from": TEXT_OR_NULL,
    "to": TEXT_OR_NULL,
    "command": str,
}
MOVED_HEAD = {"operation": str, "from": TEXT_OR_NULL, "to": TEXT_OR_NULL}
TASK_DIFFERENCE = {
    "task": str,
    "change": str,
    "before": TEXT_OR_NULL,
    "after": TEXT_OR_NULL,
    "mask_overlap": NUMBER_OR_NULL,
    "drift": NUMBER_OR_NULL,
}
DIFFERENCE = {
    "before": TEXT_OR_NULL,
    "after": TEXT_OR_NULL,
    "tasks": [TASK_DIFFERENCE],
    "before_bytes": int,
    "after_bytes": int,
    "shared_bytes": int,
}
TAG = {"tag": str, "session": str}
TAGGED = {**TAG, "deleted": bool}
NEW_SESSION = {"session": str, "kind": str, "task": str, "parent": str, "drift": dict}
REMOVED_FILE = {"path": str, "kind": str, "bytes": int}
COLLECTION = {
    "dry_run": bool,
    "sessions": [str],
    "files": [REMOVED_FILE],
    "bytes": int,
    "freed_bytes": int,
    "packed": int,
    "undoable": int,
}
PROBLEM = {
    "object": str,
    "failure": str,
    "reason": str,
    "path": TEXT_OR_NULL,
    "sessions": [str],
    "advice": str,
}
VERIFICATION = {
    "sound": bool,
    "quick": bool,
    "sessions": int,
    "blobs": int,
    "bytes": int,
    "problems": [PROBLEM],
    "leftovers": [str],
    "unknown": [str],
}
METHOD = {
    "method": str,
    "parameters": int,
    "rank": INTEGER_OR_NULL,
    "alpha": NUMBER_OR_NULL,
    "freeze_a": (bool, type(None)),
    "layers": INTEGER_OR_NULL,
}
MOMENT = {
    "session": str,
    "kind": str,
    "changed_by": str,
    "created_at": str,
    "drift": NUMBER_OR_NULL,
    "rescaler": float,
    "mask_density": float,
    "l1_norm": float,
}
SHOWN_TASK = {
    "name": str,
    "expert": dict,
    "part": str,
    "learned_in": str,
    "rescaler": float,
    "mask_density": float,
    "l1_norm": float,
    "drift": NUMBER_OR_NULL,
    "folder": TEXT_OR_NULL,
    "method": METHOD,
    "history": [MOMENT],
}
TASK = {"task": str, "classes": int, "session": str, "rescaler": float, "mask_density": float}
STORED_TASK = {"task": str, "part_bytes": int, "prototype_bytes": int, "head_bytes": int}
STORAGE = {
    "total_bytes": int,
    "base_bytes": int,
    "unified_bytes": int,
    "mask_bytes": int,
    "prototype_bytes": int,
    "head_bytes": int,
    "history_bytes": int,
    "metadata_bytes": int,
    "trained_bytes": int,
    "run_bytes": int,
    "individual_ft_bytes": int,
    "tasks": [STORED_TASK],
}
EVALUATION = {
    "task": str,
    "accuracy": float,
    "n": int,
    "label_space": str,
    "experts": int,
    "routed_to": (dict, type(None)),
}
LEARNED = {
    "session": str,
    "task": str,
    "iterations": int,
    "final_loss": float,
    "train_seconds": float,
    "keep_seconds": float,
    "unify_seconds": float,
    "commit_seconds": float,
    "pack_seconds": float,
}
PROGRESS = {"event": str, "done": int, "total": int}
BASE = {"id": str, "description": str, "parameters_millions": float, "needs_network": bool}
KNOWN_TASK = {
    "task": str,
    "title": str,
    "classes": int,
    "templates": int,
    "template": str,
    "data": TEXT_OR_NULL,
    "images": int,
    "bytes": INTEGER_OR_NULL,
    "licence": str,
    "url": TEXT_OR_NULL,
    "folder": TEXT_OR_NULL,
    "path": TEXT_OR_NULL,
    "state": str,
    "downloadable": bool,
    "needs": [str],
}
KNOWN_TASK_IN_DETAIL = {
    **KNOWN_TASK,
    "all_templates": [str],
    "class_names": (list, type(None)),
    "split": TEXT_OR_NULL,
    "train_images": INTEGER_OR_NULL,
    "test_images": INTEGER_OR_NULL,
    "presets": [{"name": str, "values": dict}],
}
CHECK = {"name": str, "ok": bool, "detail": str, "failure": str, "advice": str}
EXAMINATION = {"ok": bool, "checks": [CHECK]}
NEW_REGISTRY = {
    "registry": str,
    "base": dict,
    "method": str,
    "method_options": dict,
    "codec": str,
    "codec_options": dict,
    "parameters": int,
    "dry_run": bool,
}
BACKUP = {
    "path": str,
    "created": bool,
    "head": TEXT_OR_NULL,
    "sessions": int,
    "blobs": int,
    "experts": int,
    "copied_files": int,
    "copied_bytes": int,
    "unneeded_blobs": int,
    "unneeded_bytes": int,
}
ARCHIVE = {
    "path": str,
    "kind": str,
    "size": int,
    "head": TEXT_OR_NULL,
    "sessions": int,
    "tasks": [str],
    "blobs": int,
    "base_id": str,
    "warnings": [str],
}
EXPORTED = {
    "path": str,
    "bytes": int,
    "kind": str,
    "task": TEXT_OR_NULL,
    "session": TEXT_OR_NULL,
    "base": str,
    "architecture": str,
    "load": str,
    "head_path": TEXT_OR_NULL,
    "head_bytes": int,
}
IMPORTED = {
    "session": str,
    "task": str,
    "imported_from": str,
    "head_from": TEXT_OR_NULL,
    "classes": int,
    "images": int,
    "tasks": int,
    "distance": float,
    "unify_seconds": float,
    "commit_seconds": float,
    "warnings": [str],
}
TOUR = {
    "digits_zero_shot": float,
    "digits_before": float,
    "digits_after": float,
    "rollback_restores_predictions": bool,
}
ERROR = {"code": int, "reason": str, "message": str, "hint": str}


class Result(NamedTuple):
    """One form of a command's output: when it is printed, and its shape."""

    when: str
    shape: Shape


RESULTS: dict[str, tuple[Result, ...]] = {
    "demo": (Result("one object", TOUR),),
    "init": (Result("one object", NEW_REGISTRY),),
    "tasks": (Result("a list", [KNOWN_TASK]), Result("with TASK", KNOWN_TASK_IN_DETAIL)),
    "bases": (Result("a list", [BASE]),),
    "doctor": (Result("one object", EXAMINATION),),
    "learn": (
        Result("one object per task, at the end", LEARNED),
        Result("one object per line of progress, before it", PROGRESS),
    ),
    "predict": (Result("one object per picture", PREDICTION),),
    "evaluate": (Result("one object per task", EVALUATION),),
    "ls": (Result("a list", [TASK]),),
    "forget": (Result("one object", NEW_SESSION),),
    "rename": (Result("one object", NEW_SESSION),),
    "log": (Result("a list", [SESSION]), Result("with --operations", [OPERATION])),
    "rollback": (Result("one object", MOVED_HEAD),),
    "show": (
        Result("for a task", SHOWN_TASK),
        Result("for a session, its manifest", {"session": str}),
    ),
    "diff": (Result("one object", DIFFERENCE),),
    "tag": (Result("without NAME", [TAG]), Result("with NAME", TAGGED)),
    "storage-report": (Result("one object", STORAGE),),
    "gc": (Result("one object", COLLECTION),),
    "verify": (Result("one object", VERIFICATION),),
    "backup": (Result("one object", BACKUP),),
    "export": (
        Result("with --task or --base", EXPORTED),
        Result("for a whole registry", ARCHIVE),
    ),
    "import": (
        Result("with --task, at the end", IMPORTED),
        Result("one object per line of progress, before it", PROGRESS),
        Result("for a whole registry", ARCHIVE),
    ),
}


def misfits(found: Any, shape: Shape, place: str = "") -> list[str]:
    """List where a document differs from a shape; extra fields are fine; bools are not numbers."""
    if isinstance(shape, dict):
        return _misfits_of_object(found, shape, place)
    if isinstance(shape, list):
        if not isinstance(found, list):
            return [f"{place}: {found!r} is not a list"]
        parts = (misfits(part, shape[0], f"{place}[{i}]") for i, part in enumerate(found))
        return [problem for problems in parts for problem in problems]
    kinds = shape if isinstance(shape, tuple) else (shape,)
    fits = isinstance(found, kinds) and (not isinstance(found, bool) or bool in kinds)
    return [] if fits else [f"{place}: {found!r}"]


def _misfits_of_object(found: Any, shape: dict[str, Shape], place: str) -> list[str]:
    if not isinstance(found, dict):
        return [f"{place}: {found!r} is not an object"]
    missing = [f"{place}.{name} is missing" for name in shape if name not in found]
    parts = (
        misfits(found[name], kind, f"{place}.{name}")
        for name, kind in shape.items()
        if name in found
    )
    return missing + [problem for problems in parts for problem in problems]
