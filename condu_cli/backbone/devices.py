"""Choose the device to run on."""

from __future__ import annotations

import torch

from condu_cli.errors import UsageError


def resolve_device(name: str) -> str:
    """Resolve `auto` to the best available device; check any other name.

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
    raise UsageError(f"device '{name}' is not available", reason="no-such-device", device=name)


def check_devices(name: str, count: int) -> str:
    """Return the kind of device (cpu, cuda, mps) for `count` processes with one device each.

    Raises:
        UsageError: there are fewer devices.

    """
    kind = resolve_device(name).partition(":")[0]
    if kind == "cuda" and count > torch.cuda.device_count():
        raise UsageError(
            f"devices must be at most {torch.cuda.device_count()}, the number of GPUs, not {count}",
            reason="too-few-devices",
            parameter="devices",
            value=count,
            there=torch.cuda.device_count(),
        )
    if kind == "mps":
        raise UsageError("this machine has only one GPU", reason="one-device-only")
    return kind
