"""What the registry records, as plain immutable values without files or database.

A session is a complete manifest of everything known after one learn, import, forget or rename.
Its id is the sha256 of the manifest's canonical JSON, including the parent, so an id identifies
one history, in which nothing can change unnoticed.
"""

import difflib
import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from condu_cli.base_identity import BaseIdentity
from condu_cli.errors import NotFoundError
from condu_cli.registry.clock import utc_now
from condu_cli.registry.names import is_sha256, validate_task_name

MANIFEST_FORMAT = 1
SESSION_KINDS = ("learn", "import", "forget", "rename", "convert")
SHORT_ID_LENGTH = 12
MODEL_PARAMETERS = "model_parameters"
"""The key of `method_options` with the number of parameters of the model itself."""
ENTRY_KEYS = frozenset({"name", "expert", "part", "learned_in", "drift", "codec_options"})
"""The keys of a manifest entry besides those of the codec's record."""


def canonical_json(value: Any) -> str:
    """Return the canonical JSON of `value`: ASCII, sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def short_id(session_id: str) -> str:
    """Return the first digits of a session's id, for display."""
    return session_id[:SHORT_ID_LENGTH]


@dataclass(frozen=True)
class ParameterShape:
    """One trainable parameter: its name in the model and its shape."""

    name: str
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        whole = all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in self.shape)
        if not (isinstance(self.name, str) and whole):
            raise ValueError("a parameter has a name, and a shape of whole numbers")

    @property
    def size(self) -> int:
        """How many numbers the parameter holds."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class CodecChoice:
    """A codec's name and options, as recorded when experts were first encoded with them.

    Only the codec knows what an option that was not recorded means.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise TypeError("a codec has a name")
        _set(self, "options", plain_record(self.options))


@dataclass(frozen=True)
class RegistryConfig:
    """What is fixed when a registry is created.

    The order of `parameters` is the order in which every delta and mask is flattened. `codec` is
    that of the first session and of all others that do not name another. `method_options` are
    the options of the fine-tuning method, as JSON; full fine-tuning has none.
    """

    base: BaseIdentity
    method: str
    codec: CodecChoice
    parameters: tuple[ParameterShape, ...]
    method_options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _set(self, "method_options", plain_record(self.method_options))
        names = [parameter.name for parameter in self.parameters]
        if len(set(names)) != len(names):
            raise ValueError("two parameters have the same name")

    @property
    def parameter_count(self) -> int:
        """The number of elements of a delta, the method's d."""
        return sum(parameter.size for parameter in self.parameters)

    @property
    def model_parameter_count(self) -> int:
        """The number of parameters of a fully fine-tuned checkpoint of the same towers.

        Methods that do not train the model's own weights record it.
        """
        noted = self.method_options.get(MODEL_PARAMETERS)
        if isinstance(noted, int) and not isinstance(noted, bool) and noted > 0:
            return noted
        return self.parameter_count

    def fingerprint(self) -> str:
        """Return the sha256 of the configuration's canonical JSON.

        Without method options and preparation it equals that of versions that did not have them.
        """
        base = asdict(self.base)
        del base["preparation"]
        if self.base.preparation is not None:
            base["preparation"] = self.base.preparation.to_record()
        record: dict[str, Any] = {
            "base": base,
            "method": self.method,
            "codec": self.codec.name,
            "codec_options": self.codec.options,
            "parameters": [[p.name, list(p.shape)] for p in self.parameters],
        }
        if self.method_options:
            record["method_options"] = self.method_options
        return hashlib.sha256(canonical_json(record).encode()).hexdigest()


@dataclass(frozen=True)
class Expert:
    """What is known about an expert once it is learned; it never changes.

    `prototypes` and `head` are the sha256 of blobs; `head` is None for an expert without a head
    beside it. `training` is any JSON record of how it was trained.
    """

    classes: tuple[str, ...]
    templates: tuple[str, ...]
    prototypes: str
    training: Mapping[str, Any] = field(default_factory=dict)
    head: str | None = None

    def __post_init__(self) -> None:
        _require_sha256("prototypes", self.prototypes)
        if self.head is not None:
            _require_sha256("head", self.head)
        _set(self, "training", plain_record(self.training))

    def to_json(self) -> dict[str, Any]:
        """Return the expert as written in the manifest; an expert without a head lacks the key."""
        expert: dict[str, Any] = {
            "classes": list(self.classes),
            "templates": list(self.templates),
            "prototypes": self.prototypes,
            "training": self.training,
        }
        return expert if self.head is None else {**expert, "head": self.head}

    def blob_kinds(self) -> dict[str, str]:
        """Map the sha256 of each blob that it was learned with to its kind."""
        kinds = {} if self.head is None else {self.head: "head"}
        return {**kinds, self.prototypes: "prototypes"}


@dataclass(frozen=True)
class TaskEntry:
    """One task in one session: its expert, and how that session's codec encodes it.

    `part` is the sha256 of the codec's per-task blob, `record` the codec's description, in JSON.
    `learned_in` is the id of the session that introduced the expert; None only for a new expert,
    until `Session.on` fills it in. `codec_options` are those in which it differs from the rest of
    its session.
    """

    name: str
    expert: Expert
    part: str
    learned_in: str | None
    record: Mapping[str, Any]
    drift: float | None
    codec_options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        validate_task_name(self.name)
        _require_sha256("part", self.part)
        _set(self, "record", plain_record(self.record))
        _set(self, "codec_options", plain_record(self.codec_options))
        for key in self.record.keys() & ENTRY_KEYS:
            raise ValueError(f"a codec's record cannot have the key {key!r}")
        if self.drift is not None:
            _set(self, "drift", _finite("drift", self.drift))

    def to_json(self) -> dict[str, Any]:
        """Return the entry as written in the manifest, with the codec's record among its keys.

        The first versions wrote it this way, and the ids of old sessions depend on it.
        """
        entry: dict[str, Any] = {
            **self.record,
            "name": self.name,
            "expert": self.expert.to_json(),
            "part": self.part,
            "learned_in": self.learned_in,
            "drift": self.drift,
        }
        if self.codec_options:
            entry["codec_options"] = self.codec_options
        return entry


@dataclass(frozen=True)
class Session:
    """One immutable state of the registry; `Session.on` makes one to commit.

    `shared` is the sha256 of the codec's shared blob (the unified delta), None if the codec has
    none or no task is left. `codec` is None if it is the registry's.
    """

    id: str
    parent: str | None
    kind: str
    task: str
    created_at: str
    shared: str | None
    entries: tuple[TaskEntry, ...]
    note: Mapping[str, Any] = field(default_factory=dict)
    codec: CodecChoice | None = None

    @classmethod
    def on(
        cls,
        parent: str | None,
        kind: str,
        task: str,
        shared: str | None,
        entries: Iterable[TaskEntry],
        *,
        note: Mapping[str, Any] | None = None,
        codec: CodecChoice | None = None,
    ) -> "Session":
        """Return a new session, made now, whose parent has this id; None: the first one.

        Entries without `learned_in` are learned in it. Raises ValueError for values that no
        session has.
        """
        if kind not in SESSION_KINDS:
            raise ValueError(f"a session's kind is one of {SESSION_KINDS}, not {kind!r}")
        validate_task_name(task)
        if shared is not None:
            _require_sha256("shared", shared)
        entries = tuple(entries)
        if len({entry.name for entry in entries}) != len(entries):
            raise ValueError("two entries of a session have the same name")
        note = plain_record(note or {})
        unnamed = cls("", parent, kind, task, utc_now(), shared, entries, note, codec)
        session_id = unnamed.computed_id()
        named = (e if e.learned_in else replace(e, learned_in=session_id) for e in entries)
        return replace(unnamed, id=session_id, entries=tuple(named))

    def entry(self, name: str) -> TaskEntry:
        """Return the entry of task `name`; raise NotFoundError with the known names."""
        for entry in self.entries:
            if entry.name == name:
                return entry
        known = [entry.name for entry in self.entries]
        raise NotFoundError(
            f"there is no task {name!r} in session {short_id(self.id)}",
            reason="no-such-task",
            task=name,
            session=self.id,
            known=known,
            similar=_similar(name, known),
        )

    def blobs(self) -> set[str]:
        """Return the sha256 of every blob that this session needs."""
        return set(self.blob_kinds())

    def state_blobs(self) -> tuple[str, ...]:
        """Return the sha256 of the codec's blobs: the shared one, if any, then each task's part."""
        shared = () if self.shared is None else (self.shared,)
        return (*shared, *(entry.part for entry in self.entries))

    def expert_blobs(self) -> dict[str, str]:
        """Map the sha256 of each blob that its experts were learned with to its kind.

        No patch restores these: a session that is stored as one still needs them as files.
        """
        kinds: dict[str, str] = {}
        for entry in self.entries:
            kinds |= entry.expert.blob_kinds()
        return kinds

    def blob_kinds(self) -> dict[str, str]:
        """Map the sha256 of every blob that this session needs to its kind.

        A blob of two kinds is counted as the first of shared, part, prototypes, head.
        """
        kinds = self.expert_blobs() | {entry.part: "part" for entry in self.entries}
        return kinds if self.shared is None else kinds | {self.shared: "shared"}

    def manifest(self) -> dict[str, Any]:
        """Return the record whose canonical JSON is hashed to the id.

        In it, an expert that this session introduced has `learned_in` null: the id cannot contain
        itself. Keys added in later versions are present only if they have a value: without a
        codec it is the registry's.
        """
        entries = [entry.to_json() for entry in self.entries]
        for entry in entries:
            if entry["learned_in"] == self.id:
                entry["learned_in"] = None
        manifest: dict[str, Any] = {
            "format": MANIFEST_FORMAT,
            "parent": self.parent,
            "kind": self.kind,
            "task": self.task,
            "created_at": self.created_at,
            "shared": self.shared,
            "entries": entries,
            "note": self.note,
        }
        if self.codec is not None:
            manifest["codec"] = asdict(self.codec)
        return manifest

    def computed_id(self) -> str:
        """Return the id computed from the content; it equals `id` unless something was altered."""
        return hashlib.sha256(canonical_json(self.manifest()).encode()).hexdigest()


@dataclass(frozen=True)
class Operation:
    """One line of the registry's journal.

    Session kinds, rollback and undo-rollback moved HEAD from one session to another, None being
    the empty state before the first; init and gc moved nothing; for tag and untag, `to_session`
    is what the name points at, and `from_session` what it pointed at before.
    """

    id: int
    at: str
    kind: str
    from_session: str | None
    to_session: str | None
    command: str


@dataclass(frozen=True)
class Pack:
    """How a session without its own files is stored: as a patch on `reference`.

    `patch` is a blob's sha256, None if the reference has all the session's blobs.
    """

    session: str
    reference: str
    patch: str | None


def _similar(name: str, known: list[str]) -> str | None:
    """Return the task whose name is most similar to an unknown one."""
    folded = {task.casefold(): task for task in known}
    close = difflib.get_close_matches(name.casefold(), folded, n=1)
    return folded[close[0]] if close else None


def plain_record(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return `record` as it would be read back from JSON, so that both compare equal.

    JSON has no NaN or infinity; they become null, because a diverged loss in a training record
    must not lose the expert that it describes.
    """
    plain = json.loads(json.dumps(dict(record)), parse_constant=lambda _: None)
    assert isinstance(plain, dict)  # noqa: S101 - JSON keeps mappings
    return plain


def _finite(figure: str, value: float) -> float:
    """Return `value` as a plain float; minus zero becomes zero, as in SQLite."""
    number = float(value) + 0.0
    if not math.isfinite(number):
        raise ValueError(f"{figure} must be a finite number, not {value}")
    return number


def _require_sha256(what: str, text: str) -> None:
    if not is_sha256(text):
        raise ValueError(f"{what} must be the sha256 of a blob, not {text!r}")


def _set(instance: object, name: str, value: Any) -> None:
    """Normalise a field of a frozen dataclass while it is being made."""
    object.__setattr__(instance, name, value)
