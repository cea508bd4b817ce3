"""Every error that condu raises on purpose, with the exit code it ends the program with.

ConduError                     1   anything unexpected
├── UsageError                 2   the command line asks for something that makes no sense
├── PartialError               3   some inputs failed, the others were answered
├── NotFoundError              4   no such task or session
├── NoRegistryError           10   there is no registry at that path
├── LockedError               11   another process is writing
│   └── HeadMovedError        11   another process has committed meanwhile
├── RegistryTooNewError       12   the registry was written by a newer condu
├── BaseModelError            13   the base model cannot be had, or is not the registry's
├── IntegrityError            14   what lies on disk is not what was written
├── DataError                 15   the pictures, class names or folders of a data set
│   └── DivergedError         15   training came to numbers that are none
└── InterruptedByUserError   130   Ctrl-C

A message is one line that says what is wrong; the hint names what to do next. This module
imports nothing, so that the command line can use it before anything heavy is loaded.
"""


class ConduError(Exception):
    """Base of the tree: an expected failure with a message, a hint and an exit code."""

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(ConduError):
    """Options or arguments that contradict each other or what the registry holds."""

    exit_code = 2


class PartialError(ConduError):
    """Some inputs failed and were named; the results of the others were printed."""

    exit_code = 3


class NotFoundError(ConduError):
    """A task or session that the registry does not know."""

    exit_code = 4


class NoRegistryError(ConduError):
    """No registry at the path that was given or resolved."""

    exit_code = 10


class LockedError(ConduError):
    """Another process holds the registry's write lock."""

    exit_code = 11


class HeadMovedError(LockedError):
    """HEAD is not any more what the command started from; what it made is kept."""


class RegistryTooNewError(ConduError):
    """The registry's format is newer than this program knows."""

    exit_code = 12


class BaseModelError(ConduError):
    """A base model that cannot be loaded, or whose weights are not the registry's."""

    exit_code = 13


class IntegrityError(ConduError):
    """A blob, manifest or database that does not hold what was written."""

    exit_code = 14


class DataError(ConduError):
    """A data set that cannot be read: pictures, class names or folder layout."""

    exit_code = 15


class DivergedError(DataError):
    """A training whose loss is no longer a number: to go on with it would end the same way."""


class InterruptedByUserError(ConduError):
    """Ctrl-C during a long command; what was committed stays committed."""

    exit_code = 130
