"""How files of weights are recognised by name; no large library is imported."""

from __future__ import annotations

from pathlib import Path

SAFE_SUFFIX = ".safetensors"
PICKLE_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt")
CHECKPOINT_SUFFIXES = (SAFE_SUFFIX, *PICKLE_SUFFIXES)
METADATA_KEY = "condu"
"""The only metadata entry of an exported file; several would be written in random order."""
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
"""The two files of a PEFT adapter."""
HUGGING_FACE_CONFIG = "config.json"
"""What a folder of a Hugging Face model holds, beside its weights."""
ADAPTER_HEAD = "adapter_head.safetensors"
"""The head of an exported expert, beside its adapter's two files."""
HEAD_SUFFIX = ".head.safetensors"
"""The same beside a checkpoint, in the place of the checkpoint's own suffix."""


def is_checkpoint(pretrained: str) -> bool:
    """Return whether the weights of a base model are a file, not a tag."""
    return Path(pretrained).suffix in CHECKPOINT_SUFFIXES


def is_adapter(path: Path) -> bool:
    """Return whether a path is the folder of a PEFT adapter, valid or not."""
    return (path / ADAPTER_CONFIG).is_file()


def is_hugging_face(path: Path) -> bool:
    """Return whether a path is the folder of a Hugging Face model, valid or not."""
    return (path / HUGGING_FACE_CONFIG).is_file()


def head_file(weights: Path) -> Path:
    """Return where the head of an exported expert lies; `weights`: a checkpoint or an adapter."""
    return weights / ADAPTER_HEAD if is_adapter(weights) else weights.with_suffix(HEAD_SUFFIX)
