"""Find out whether a process on this machine is still running."""

import os


def is_running(pid: int) -> bool:
    """Return whether there is such a process; True too if that cannot be told. Not for Windows.

    There the signal would end the process.
    """
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # another user's
        return True
    return True
