"""How a base model wants its pictures prepared: known to models and to what reads pictures."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

Statistics: TypeAlias = tuple[float, float, float]
"""One number per channel: red, green, blue."""
INTERPOLATIONS = ("bicubic", "bilinear")
RESIZE_MODES = ("shortest", "squash")
"""`shortest`: shorter side to the model's size, then centre crop; `squash`: both sides."""


@dataclass(frozen=True)
class Preparation:
    """What happens to a picture on its way into a model, apart from the size.

    `mean` and `std` are on the 0..1 scale. Weights do not tell any of it, and with another one the
    same weights answer differently.

    Raises:
        ValueError: a value is not one that condu can use; the message names it.

    """

    mean: Statistics
    std: Statistics
    interpolation: str = "bicubic"
    resize_mode: str = "shortest"

    def __post_init__(self) -> None:
        for name, values in (("mean", self.mean), ("std", self.std)):
            object.__setattr__(self, name, _statistics(name, values))
        if min(self.mean) < 0 or max(self.mean) > 1:
            raise ValueError(f"mean must be on the 0..1 scale, not {_numbers(self.mean)}")
        if min(self.std) <= 0 or max(self.std) > 1:
            raise ValueError(f"std must be above 0 and at most 1, not {_numbers(self.std)}")
        _require_one_of("interpolation", self.interpolation, INTERPOLATIONS)
        _require_one_of("resize_mode", self.resize_mode, RESIZE_MODES)

    @classmethod
    def from_record(cls, record: Any) -> Preparation:
        """Check a record from a database or a file; raise ValueError if it is not one."""
        if not isinstance(record, dict) or record.keys() != cls.__dataclass_fields__.keys():
            raise ValueError("it does not say how pictures are prepared")
        return cls(**record)

    def to_record(self) -> dict[str, Any]:
        """Return the record as JSON."""
        return {**asdict(self), "mean": list(self.mean), "std": list(self.std)}

    def words(self) -> str:
        """Return all values in one line."""
        return (
            f"mean {_numbers(self.mean)}, std {_numbers(self.std)}, {self.interpolation}, "
            f"{self.resize_mode}"
        )


@dataclass(frozen=True)
class Preprocessing:
    """How pictures become tensors; sizes are in pixels."""

    image_size: int
    preparation: Preparation
    fixed_size: bool = True
    """False if the image tower accepts other sizes (convolutional towers)."""


def _statistics(name: str, values: Any) -> Statistics:
    numbers = tuple(values) if isinstance(values, (list, tuple)) else ()
    plain = all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in numbers)
    if len(numbers) == 3 and plain:
        with suppress(OverflowError):  # a whole number beyond all floats
            red, green, blue = map(float, numbers)
            if all(map(math.isfinite, (red, green, blue))):
                return red, green, blue
    raise ValueError(f"{name} must be three numbers, not {str(values)[:100]}")


def _numbers(values: Statistics) -> str:
    return ", ".join(f"{value:.4g}" for value in values)


def _require_one_of(name: str, value: Any, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{name} must be {' or '.join(known)}, not {value!r}")
