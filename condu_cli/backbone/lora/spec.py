"""The settings of a LoRA model, and a registry's record of them; does not import torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

METHOD = "lora"
"""The name of the method in a registry."""
MAX_RANK = 1024
"""Above this, factors are larger than any layer of the known models."""
MAX_ALPHA = 1e6
MAX_SEED = 2**63 - 1
INITIAL = "initial_sha256"
"""The record's key for the hash of the shared initialisation."""


@dataclass(frozen=True)
class LoraDefaults:
    """A base model's defaults: rank, alpha, and glob patterns for names of layers."""

    rank: int
    alpha: float
    targets: tuple[str, ...]


@dataclass(frozen=True)
class LoraSpec:
    """The LoRA settings of a registry, fixed at its creation.

    `targets` are full names of layers, in the order of their factors; layer NAME owns the parameter
    `NAME.weight`. With `freeze_a` only the B factors are trained.

    Raises:
        ValueError: a value is out of range.

    """

    rank: int
    alpha: float
    targets: tuple[str, ...]
    freeze_a: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.rank <= MAX_RANK:
            raise ValueError(f"the rank must be 1 to {MAX_RANK}, not {self.rank}")
        if not 0 < self.alpha <= MAX_ALPHA:  # also false for NaN
            raise ValueError(f"alpha must be above 0 and at most {MAX_ALPHA:g}, not {self.alpha}")
        if not 0 <= self.seed <= MAX_SEED:
            raise ValueError(f"the seed must be 0 to {MAX_SEED}, not {self.seed}")
        if not self.targets or len(set(self.targets)) != len(self.targets):
            raise ValueError("there are no target layers, or one occurs twice")

    @property
    def scale(self) -> float:
        """The factor of B @ A."""
        return self.alpha / self.rank

    def to_record(self) -> dict[str, Any]:
        """Return the JSON record that `from_record` reads."""
        return {
            "rank": self.rank,
            "alpha": float(self.alpha),
            "targets": list(self.targets),
            "freeze_a": self.freeze_a,
            "seed": self.seed,
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> LoraSpec:
        """Read a registry's record, which is not trusted.

        Raises:
            ValueError: it is not a valid record.

        """
        alpha, targets, freeze_a = (record.get(key) for key in ("alpha", "targets", "freeze_a"))
        if not isinstance(alpha, float) or not isinstance(freeze_a, bool):
            raise ValueError("alpha must be a float and freeze_a a boolean")
        if not isinstance(targets, list) or not all(isinstance(name, str) for name in targets):
            raise ValueError("targets must be names of layers")
        rank, seed = _whole(record, "rank"), _whole(record, "seed")
        return cls(rank, alpha, tuple(targets), freeze_a, seed)


def _whole(record: Mapping[str, Any], key: str) -> int:
    value = record.get(key)
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"{key} must be an integer")
    return value
