"""The write lock: one writer per registry, whose name the others are told.

The operating system holds the lock for the process, so it ends with the process. The note about
the holder is only for messages; it never decides who may write.
"""

import json
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from condu_cli.errors import ConduError, IntegrityError, LockedError
from condu_cli.registry.clock import utc_now
from condu_cli.registry.files.paths import RegistryPaths
from condu_cli.registry.files.processes import is_running
from condu_cli.registry.files.reserve import give_up

DEFAULT_TIMEOUT = 10.0


@dataclass(frozen=True)
class Holder:
    """Who holds the lock: enough to find the process."""

    pid: int
    host: str
    command: str
    since: str

    def __str__(self) -> str:
        return f"{self.command!r} (process {self.pid} on {self.host}) since {self.since}"


class RegistryLock:
    """The lock on the file at `path`, for one `Registry`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._holder_path = path.with_name(path.name + ".holder")
        self._reserve = RegistryPaths(path.parent).reserve
        # One lock for the whole process, whichever thread asks.
        self._lock = FileLock(path, thread_local=False)

    @property
    def held(self) -> bool:
        """Whether this object holds the lock."""
        return self._lock.is_locked

    @contextmanager
    def acquire(
        self,
        command: str,
        timeout: float = DEFAULT_TIMEOUT,
        on_wait: Callable[[str], None] | None = None,
    ) -> Iterator[None]:
        """Hold the lock; raise LockedError naming its holder if `timeout` seconds pass.

        Nested blocks share the lock; the outermost one releases it.
        `on_wait` is called once with the holder's name if the lock is not free.
        """
        if self.held:
            yield
            return
        try:
            self._wait(timeout, on_wait)
        except Timeout:
            raise self._locked() from None
        except OSError as error:
            raise ConduError(
                f"cannot lock the registry at {self._path.parent}: {error.strerror or error}",
                reason="cannot-lock",
                path=self._path.parent,
            ) from error
        try:
            give_up(self._reserve)
            self._announce(command)
            yield
        finally:
            try:
                with suppress(OSError):
                    self._holder_path.unlink(missing_ok=True)
            finally:  # even after Ctrl-C in the line above
                self._lock.release()

    def _wait(self, timeout: float, on_wait: Callable[[str], None] | None) -> None:
        if self._path.is_symlink():
            raise IntegrityError(
                f"{self._path} is a symbolic link", reason="lock-is-link", path=self._path
            )
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            if on_wait is not None:
                on_wait(str(self.holder() or "another process"))
            self._lock.acquire(timeout=timeout)

    def holder(self) -> Holder | None:
        """Return the holder from its note; None if there is no note or its process is gone."""
        try:
            holder = Holder(**json.loads(self._holder_path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, RecursionError):
            return None
        return None if _is_gone(holder) else holder

    def _announce(self, command: str) -> None:
        """Leave a note for waiting processes; failure only makes their messages vaguer."""
        holder = Holder(os.getpid(), socket.gethostname(), command, utc_now())
        # A fixed name: only the lock's holder writes it, over what a killed process may have left.
        draft = self._holder_path.with_name(f"{self._holder_path.name}.partial")
        with suppress(OSError):
            draft.unlink(missing_ok=True)  # never write through a link of that name
            with draft.open("x", encoding="utf-8") as file:
                file.write(json.dumps(asdict(holder)) + "\n")
            draft.replace(self._holder_path)

    def _locked(self) -> LockedError:
        by = self.holder() or "another process"
        return LockedError(
            f"the registry at {self._path.parent} is locked by {by}",
            reason="registry-locked",
            path=self._path.parent,
            holder=by,
        )


def _is_gone(holder: Holder) -> bool:
    """Return whether the holder ran on this machine and has ended."""
    if os.name == "nt" or holder.host != socket.gethostname():
        return False
    return isinstance(holder.pid, int) and not is_running(holder.pid)
