"""How files of weights are recognised by name; no large library is imported."""

from __future__ import annotations

from pathlib import Path

SAFE_SUFFIX = ".safetensors"
PICKLE_SUFFIXES = (".pt", ".pth", ".bin")
CHECKPOINT_SUFFIXES = (SAFE_SUFFIX, *PICKLE_SUFFIXES)
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
"""The two files of a PEFT adapter."""


def is_checkpoint(pretrained: str) -> bool:
    """Return whether the weights of a base model are a file, not a tag."""
    return Path(pretrained).suffix in CHECKPOINT_SUFFIXES


def is_adapter(path: Path) -> bool:
    """Return whether a path is the folder of a PEFT adapter, valid or not."""
    return (path / ADAPTER_CONFIG).is_file()
