"""The processes that train one expert together: usually one, else those that Accelerate started.

Every process holds the whole model and trains on its share of every batch; what they must agree
on goes through the few operations here. Losses and gradients are summed, so that several
processes do what one would do with the same batch, but for rounding.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Protocol, TypeVar

import torch

from condu_cli.train.launching import launched_processes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

T = TypeVar("T")


class Team(Protocol):
    """`size` processes, of which this is number `rank`; number 0 speaks and writes for all."""

    rank: int
    size: int
    device: str
    """This process's own device, such as `cuda:1`; empty: any."""

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum of everybody's tensor; all of the same shape and dtype."""

    def share(self, value: T) -> T:
        """The value that process 0 passes; it must be one that pickle knows."""

    def end(self) -> None:
        """Take leave of the others."""


class Solo:
    """A team of one."""

    rank = 0
    size = 1
    device = ""

    def sum(self, tensor: Tensor) -> Tensor:
        """The tensor itself."""
        return tensor

    def share(self, value: T) -> T:
        """The value itself."""
        return value

    def end(self) -> None:
        """No process is left behind."""


class AcceleratedTeam:
    """The processes that `accelerate launch` started, on any backend that Accelerate knows."""

    def __init__(self, device: str) -> None:
        from accelerate import Accelerator, InitProcessGroupKwargs

        # The others wait while process 0 reads the pictures, which may take hours.
        patience = InitProcessGroupKwargs(timeout=timedelta(days=7))
        self._accelerator = Accelerator(
            cpu=device == "cpu", mixed_precision="no", kwargs_handlers=[patience]
        )
        self.rank = int(self._accelerator.process_index)
        self.size = int(self._accelerator.num_processes)
        found = self._accelerator.device
        self.device = found.type if found.type == "cpu" else str(found)

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, on the tensor's device."""
        total = self._accelerator.reduce(tensor.to(self._accelerator.device), reduction="sum")
        return total.to(tensor.device)  # type: ignore[no-any-return]

    def share(self, value: T) -> T:
        """What process 0 passed."""
        from accelerate.utils import broadcast_object_list

        return broadcast_object_list([value])[0]  # type: ignore[no-any-return]

    def end(self) -> None:
        """Take leave of the others."""
        self._accelerator.end_training()
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


SOLO = Solo()


def make_team(device: str) -> Team:
    """The processes that a launcher started, else this one alone."""
    return AcceleratedTeam(device) if launched_processes() > 1 else SOLO


def sum_gradients(team: Team, parameters: Sequence[torch.nn.Parameter]) -> None:
    """Replace every gradient by the sum over the team, all of them in one exchange."""
    if team.size == 1:
        return
    # Whoever had no share in a parameter (fewer prompts than processes) still takes part.
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    total = team.sum(torch.cat([g.reshape(-1) for g in gradients]))
    start = 0
    for parameter, gradient in zip(parameters, gradients, strict=True):
        count = gradient.numel()
        # In the parameter's own memory layout: fused optimizers go by position in memory.
        summed = total[start : start + count].view(gradient.shape)
        parameter.grad = torch.empty_like(parameter).copy_(summed)
        start += count
