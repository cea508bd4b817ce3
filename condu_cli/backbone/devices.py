"""Which device to run on."""

from __future__ import annotations

import torch

from condu_cli.errors import UsageError


def resolve_device(name: str) -> str:
    """`auto` to the best device there is; anything else is checked.

    Raises:
        UsageError: the device is unknown or not available here.

    """
    if name == "auto":
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    kind, _, index = name.partition(":")
    if kind == "cpu" and not index:
        return name
    if kind == "mps" and not index and torch.backends.mps.is_available():
        return name
    count = torch.cuda.device_count() if kind == "cuda" else 0
    if count and (not index or (index.isdigit() and int(index) < count)):
        return name
    raise UsageError(f"there is no device '{name}' here", reason="no-such-device", device=name)


def check_devices(name: str, count: int) -> str:
    """The kind of device that `count` processes would use one each of: cpu, cuda or mps.

    Raises:
        UsageError: there are not so many of it.

    """
    kind = resolve_device(name).partition(":")[0]
    if kind == "cuda" and count > torch.cuda.device_count():
        raise UsageError(
            f"devices must be at most the {torch.cuda.device_count()} GPUs here, not {count}",
            reason="too-few-devices",
            parameter="devices",
            value=count,
            there=torch.cuda.device_count(),
        )
    if kind == "mps":
        raise UsageError("there is only one GPU of this kind", reason="one-device-only")
    return kind
