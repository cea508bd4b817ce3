"""Standard streams that may fail: a pipe that was closed, a device that is full."""

import os
from typing import Any, TextIO


class Lasting:
    """A stream that is silent after its first failure: what it says matters less than the work."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write a text, or discard it."""
        try:
            return self._stream.write(text)
        except OSError:
            silence(self._stream)
            return len(text)

    def flush(self) -> None:
        """Write what is buffered, or discard it."""
        try:
            self._stream.flush()
        except OSError:
            silence(self._stream)

    def __getattr__(self, name: str) -> Any:
        """Return anything else of the stream itself."""
        return getattr(self._stream, name)


def silence(stream: TextIO) -> None:
    """Discard what is written from now on, and what the interpreter flushes at exit."""
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, stream.fileno())
    finally:
        os.close(null)
