"""Every error that condu raises on purpose, and its exit code.

ConduError                     1   any other failure
├── ExhaustedError             1   the process ran out of open files or memory
├── UsageError                 2   options that contradict each other or the registry
├── PartialError               3   some inputs failed, the others succeeded
├── NotFoundError              4   no such task or session
├── NoRegistryError           10   no registry at that path
├── LockedError               11   another process is writing
│   └── HeadMovedError        11   another process committed in the meantime
├── RegistryTooNewError       12   the registry was written by a newer condu
├── BaseModelError            13   the base model cannot be loaded, or is not the registry's
├── IntegrityError            14   a corrupt or missing blob, manifest or database
├── DataError                 15   the pictures, class names or folders of a data set
│   └── DivergedError         15   the loss became NaN or infinite
└── InterruptedByUserError   130   Ctrl-C

A message is one line that says what is wrong, in words that suit a library call, an HTTP answer
and the command line alike. `reason` names the kind of failure; `facts` hold the details. Hints
are made elsewhere: the command line derives them from reason and facts (`cli/hints`).

This module imports nothing heavy, so that the command line can use it at once.
"""


class ConduError(Exception):
    """Base class: an expected failure with a message, a reason, facts and an exit code.

    `reason` is a stable kebab-case name. `facts` is a JSON-compatible mapping: numbers, lists and
    mappings are kept, tuples become lists, anything else (such as a path) becomes a str. The fact
    `parameter` names the offending argument, spelled as in the library.
    """

    exit_code = 1

    def __init__(self, message: str, *, reason: str, **facts: object) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason
        self.facts: dict[str, object] = {}
        self.add(**facts)

    def add(self, **facts: object) -> None:
        """Add facts that only a caller knows, such as where a trained expert was kept."""
        self.facts.update({name: _plain(value) for name, value in facts.items()})

    def __reduce__(self) -> tuple[object, ...]:
        """Keep reason and facts when pickled: errors of workers are raised again in the parent."""
        return _restored, (type(self), self.message, self.reason, self.facts)


def _restored(
    kind: type[ConduError], message: str, reason: str, facts: dict[str, object]
) -> ConduError:
    return kind(message, reason=reason, **facts)


def _plain(value: object) -> object:
    if value is None or isinstance(value, (str, int, float)):
        return value
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    if isinstance(value, dict):
        return {str(name): _plain(part) for name, part in value.items()}
    return str(value)


class ExhaustedError(ConduError):
    """The process ran out of open files or memory; no file is corrupt."""


def exhausted(error: BaseException) -> ExhaustedError | None:
    """Return an ExhaustedError if the error means that files or memory ran out, else None."""
    import errno

    code = getattr(error, "errno", None)
    if code in (errno.EMFILE, errno.ENFILE):
        return ExhaustedError("the process ran out of open files", reason="out-of-files")
    if code == errno.ENOMEM:
        return ExhaustedError("the process ran out of memory", reason="out-of-memory")
    return None


class UsageError(ConduError):
    """Options or arguments that contradict each other or what the registry holds."""

    exit_code = 2


class PartialError(ConduError):
    """Some inputs failed; the results for the others were printed."""

    exit_code = 3


class NotFoundError(ConduError):
    """No such task or session."""

    exit_code = 4


class NoRegistryError(ConduError):
    """No registry at the given path."""

    exit_code = 10


class LockedError(ConduError):
    """Another process is writing to the registry."""

    exit_code = 11


class HeadMovedError(LockedError):
    """HEAD moved while the command ran; what the command made is kept."""


class RegistryTooNewError(ConduError):
    """The registry was written by a newer condu."""

    exit_code = 12


class BaseModelError(ConduError):
    """The base model cannot be loaded, or its weights are not the registry's."""

    exit_code = 13


class IntegrityError(ConduError):
    """A corrupt or missing blob, manifest or database."""

    exit_code = 14


class DataError(ConduError):
    """A problem with a data set: its pictures, class names or folder layout."""

    exit_code = 15


class DivergedError(DataError):
    """The loss became NaN or infinite; resuming would end the same way."""


class InterruptedByUserError(ConduError):
    """Interrupted, for instance by Ctrl-C; what was committed stays committed."""

    exit_code = 130
