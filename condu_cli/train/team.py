"""The processes that train one expert together: usually one, else those of Accelerate.

Every process holds the whole model and trains on its share of every batch; all communication goes
through the few operations here. Losses and gradients are summed, so several processes do what one
would do with the same batch, except for rounding.
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
    """`size` processes, of which this is number `rank`; number 0 prints and writes for all."""

    rank: int
    size: int
    device: str
    """This process's own device, such as `cuda:1`; empty: any."""

    def sum(self, tensor: Tensor) -> Tensor:
        """Return the sum of all processes' tensors, which have the same shape and dtype."""

    def share(self, value: T) -> T:
        """Return the value passed by process 0, which must be picklable."""

    def end(self) -> None:
        """Leave the team."""


class Solo:
    """A team of one."""

    rank = 0
    size = 1
    device = ""

    def sum(self, tensor: Tensor) -> Tensor:
        """Return the tensor itself."""
        return tensor

    def share(self, value: T) -> T:
        """Return the value itself."""
        return value

    def end(self) -> None:
        """Do nothing."""


class AcceleratedTeam:
    """The processes that a launcher started, on any backend that Accelerate supports."""

    def __init__(self, device: str) -> None:
        from accelerate import Accelerator, InitProcessGroupKwargs

        # The other processes wait while process 0 reads the pictures, which may take hours.
        patience = InitProcessGroupKwargs(timeout=timedelta(days=7))
        self._accelerator = Accelerator(
            cpu=device == "cpu", mixed_precision="no", kwargs_handlers=[patience]
        )
        self.rank = int(self._accelerator.process_index)
        self.size = int(self._accelerator.num_processes)
        found = self._accelerator.device
        self.device = found.type if found.type == "cpu" else str(found)

    def sum(self, tensor: Tensor) -> Tensor:
        """Return the sum over all processes, on the tensor's device."""
        total = self._accelerator.reduce(tensor.to(self._accelerator.device), reduction="sum")
        return total.to(tensor.device)  # type: ignore[no-any-return]

    def share(self, value: T) -> T:
        """Return the value passed by process 0."""
        from accelerate.utils import broadcast_object_list

        return broadcast_object_list([value])[0]  # type: ignore[no-any-return]

    def end(self) -> None:
        """Leave the team."""
        self._accelerator.end_training()
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


SOLO = Solo()


def make_team(device: str) -> Team:
    """Return the processes that a launcher started, else this one alone."""
    return AcceleratedTeam(device) if launched_processes() > 1 else SOLO


def agreed(team: Team, *wishes: bool) -> list[bool]:
    """Combine wishes: what any process of the team wants, all do at the same moment."""
    if team.size == 1:
        return list(wishes)
    return [bool(n) for n in team.sum(torch.tensor(wishes, dtype=torch.float32))]


def sum_gradients(team: Team, parameters: Sequence[torch.nn.Parameter]) -> None:
    """Replace every gradient by the sum over the team, all of them in one exchange."""
    if team.size == 1:
        return
    # A process without a gradient (fewer prompts than processes) still takes part.
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    total = team.sum(torch.cat([g.reshape(-1) for g in gradients]))
    start = 0
    for parameter, gradient in zip(parameters, gradients, strict=True):
        count = gradient.numel()
        # In the parameter's own memory layout: fused optimizers work by position in memory.
        summed = total[start : start + count].view(gradient.shape)
        parameter.grad = torch.empty_like(parameter).copy_(summed)
        start += count
