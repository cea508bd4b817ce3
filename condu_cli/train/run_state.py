"""The state of a run between two iterations: everything needed to resume it exactly."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from condu_cli.errors import IntegrityError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from torch import nn

    Arrays = Mapping[str, np.ndarray[Any, Any]]

WEIGHT, FIRST, SECOND, BEST = "weight/", "exp_avg/", "exp_avg_sq/", "best/"
"""Prefixes of a state's arrays: parameters, AdamW's two moments, and the parameters at the best
measurement so far."""


@dataclass
class History:
    """What a run has measured so far, in plain numbers."""

    iteration: int = 0
    """Number of finished iterations."""
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)
    validation: list[dict[str, float]] = field(default_factory=list)
    """`{"iteration", "accuracy"}` of every measurement."""
    best_iteration: int = 0
    best_accuracy: float = -1.0
    measured_since_best: int = 0


@dataclass(frozen=True)
class RunState:
    """Arrays by name, and the history, as saved."""

    arrays: Arrays
    history: dict[str, Any]


def capture(
    parameters: Mapping[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    best: Mapping[str, torch.Tensor],
    history: History,
) -> RunState:
    """Copy the state of a run to the CPU, as float32 arrays of the parameters' shapes."""
    arrays = {WEIGHT + name: _copy(p) for name, p in parameters.items()}
    for name, parameter in parameters.items():
        kept = optimizer.state.get(parameter)
        if kept:  # a parameter that never had a gradient has no moments
            arrays[FIRST + name] = _copy(kept["exp_avg"])
            arrays[SECOND + name] = _copy(kept["exp_avg_sq"])
    arrays |= {BEST + name: _copy(tensor) for name, tensor in best.items()}
    record = {**history.__dict__, "losses": list(history.losses)}
    return RunState(arrays, {**record, "validation": [dict(v) for v in history.validation]})


def restore(
    state: RunState,
    parameters: Mapping[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    best: dict[str, torch.Tensor],
) -> History:
    """Load a state into the parameters, a fresh AdamW and the best weights.

    Raises:
        IntegrityError: the state belongs to other parameters.

    """
    history = History(**state.history)
    try:
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(_tensor(state.arrays, WEIGHT + name))
                if FIRST + name in state.arrays:
                    optimizer.state[parameter] = _moments(state.arrays, name, parameter, history)
                if BEST + name in state.arrays:
                    kept = torch.empty_like(parameter)
                    best[name] = kept.copy_(_tensor(state.arrays, BEST + name))
    except (KeyError, RuntimeError) as exc:
        raise IntegrityError(
            f"the unfinished training belongs to other parameters: {exc}",
            reason="run-of-other-parameters",
        ) from exc
    return history


def _moments(
    arrays: Arrays, name: str, parameter: nn.Parameter, history: History
) -> dict[str, torch.Tensor]:
    """Return AdamW's state of one parameter, in the form of the fused implementation."""
    device = parameter.device if parameter.device.type == "cuda" else "cpu"
    return {
        "step": torch.tensor(float(history.iteration), dtype=torch.float32, device=device),
        "exp_avg": torch.empty_like(parameter).copy_(_tensor(arrays, FIRST + name)),
        "exp_avg_sq": torch.empty_like(parameter).copy_(_tensor(arrays, SECOND + name)),
    }


def _tensor(arrays: Arrays, name: str) -> torch.Tensor:
    return torch.tensor(arrays[name])


def _copy(tensor: torch.Tensor) -> np.ndarray[Any, Any]:
    return tensor.detach().to("cpu", copy=True).contiguous().numpy()
