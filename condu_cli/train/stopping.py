"""Handle Ctrl-C while training: finish the iteration, so that the saved state is complete."""

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import FrameType, TracebackType

NAMES = ("SIGINT", "SIGTERM", "SIGHUP")
"""Ctrl-C, a cluster reclaiming the machine, and a closed terminal."""


def _is_left_running(number: signal.Signals) -> bool:
    """Return whether the signal is left ignored: SIGHUP under `nohup`, but never SIGINT."""
    return number.name == "SIGHUP" and signal.getsignal(number) == signal.SIG_IGN


class StopRequest:
    """While entered, remembers the first signal; a second one interrupts at once.

    `patient`: a second one does not, because a launcher passes on signals that arrive anyway.
    """

    def __init__(self, *, patient: bool = False) -> None:
        self.requested = False
        self._patient = patient
        self._before: dict[signal.Signals, Any] = {}

    def __call__(self) -> bool:
        """Return whether a stop was requested."""
        return self.requested

    def __enter__(self) -> StopRequest:
        # Python allows handlers only in the main thread; Ctrl-C does not reach other threads.
        if threading.current_thread() is threading.main_thread():
            known = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]
            self._before = {
                number: signal.signal(number, self._on_signal)
                for number in known
                if not _is_left_running(number)
            }
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._restore()

    def release(self) -> None:
        """Restore the previous handlers; raise KeyboardInterrupt if a stop was requested."""
        self._restore()
        if self.requested:
            raise KeyboardInterrupt

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.requested and not self._patient:
            raise KeyboardInterrupt
        self.requested = True
