"""What the values of a registry must be in an archive, besides what hashes and types rule out.

An archive may come from anywhere, so the importer refuses what breaks these rules; the exporter
follows them too, so that it never writes what the importer refuses.
"""

from collections.abc import Iterable, Iterator

from condu_cli.registry.copies.archive_format import ArchiveError
from condu_cli.registry.manifest import Operation, RegistryConfig, Session, TaskEntry
from condu_cli.registry.names import is_sha256, is_task_name
from condu_cli.registry.reachability import History
from condu_cli.texts import complaint

_Named = Iterator[tuple[str, object]]
"""Texts with the words for what each of them is."""


def check_values(
    config: RegistryConfig, created_at: object, operations: Iterable[Operation], history: History
) -> None:
    """Check the values of a registry that is in an archive, or is to be written to one.

    Raises:
        ArchiveError: a value breaks the rules; the message names it.

    """
    base = config.base
    if not (is_sha256(base.weights_sha256) and is_count(base.image_size)):
        raise ArchiveError("its description of the base model is invalid")
    if not all(is_count(size) for p in config.parameters for size in p.shape):
        raise ArchiveError("a parameter has no valid shape")
    for tag in history.tags:
        if not is_task_name(tag):
            raise ArchiveError(f"{tag!r} cannot be the name of a tag")
    for what, text in _texts(config, created_at, operations, history.sessions):
        if not isinstance(text, str):
            raise ArchiveError(f"{what} is not text")
        if odd := complaint(what, text.replace("\t", "").replace("\n", "")):
            raise ArchiveError(odd)


def is_count(value: object) -> bool:
    """Return whether a value is a whole number from 0 to what SQLite holds."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63


def _texts(
    config: RegistryConfig,
    created_at: object,
    operations: Iterable[Operation],
    sessions: Iterable[Session],
) -> _Named:
    base = config.base
    for text in (base.id, base.architecture, base.pretrained, base.activation):
        yield "the base model", text
    for text in (config.method, config.codec.name):
        yield "the registry's method or codec", text
    yield "the registry's date", created_at
    for parameter in config.parameters:
        yield "the parameter", parameter.name
    for value in (config.method_options, config.codec.options):
        yield from (("the registry's option", text) for text in _texts_in(value))
    for operation in operations:
        for text in (operation.at, operation.kind, operation.command):
            yield "an operation", text
    experts: dict[int, TaskEntry] = {}  # sessions share theirs
    for session in sessions:
        yield from _texts_of(session)
        experts |= {id(entry.expert): entry for entry in session.entries}
    for entry in experts.values():
        yield from ((f"task {entry.name}: the class", text) for text in entry.expert.classes)
        yield from ((f"task {entry.name}: the template", text) for text in entry.expert.templates)


def _texts_of(session: Session) -> _Named:
    for text in (session.created_at, session.kind, session.task):
        yield "a session's date, kind or task", text
    if session.codec is not None:
        for text in (session.codec.name, *_texts_in(session.codec.options)):
            yield "a session's codec", text
    for entry in session.entries:
        for value in (entry.record, entry.codec_options):
            yield from ((f"task {entry.name}: the codec's", text) for text in _texts_in(value))


def _texts_in(value: object) -> Iterator[str]:
    """Yield every string in a JSON value, including keys."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from _texts_in(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts_in(inner)
