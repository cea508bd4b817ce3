"""Whether a process of this machine is still running."""

import os


def is_running(pid: int) -> bool:
    """Say whether there is such a process; True too if that may not be asked. Not for Windows.

    There the signal that asks would end the process.
    """
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # another user's
        return True
    return True
