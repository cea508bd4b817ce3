"""The platform of torch tensors on one device; imported only if there are tensors.

Every number is the same as in numpy, bit for bit, except that sums may be added in another order.
What CUDA does differently is avoided: there are almost no operations on uint16, uint32 and uint64;
dividing by a Python number multiplies by its reciprocal; and every value that the host reads
synchronises the device, so each check reads once per chunk. One thread issues the work, in chunks
large enough to fill a device. The device needs float64.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from condu_cli.core.arrays.coders import BFLOAT16, INT8_STEPS, SMALLEST_FLOAT32

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from contextlib import AbstractContextManager

    from numpy.typing import NDArray
    from torch import Tensor

    from condu_cli.core.arrays.bits import Array
    from condu_cli.core.arrays.coders import Coder, UnifiedDtype
    from condu_cli.core.arrays.layout import ParameterLayout
    from condu_cli.core.arrays.platform import Source

BLOCK_SIZE = 1 << 22  # elements: 16 MB in float32
SMALLEST = float(SMALLEST_FLOAT32)
MAGNITUDE = 0x7FFFFFFF  # the bits of a float32 without its sign


class TorchPlatform:
    """Tensors on one device; see `platform.Platform` for the methods."""

    word: np.dtype[Any] = np.dtype(np.uint8)
    block_size = BLOCK_SIZE
    threads: int | None = 1
    kernels: str | None = "vectorised"

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def working(self) -> AbstractContextManager[None]:
        """Return a context without gradients: weights may be parameters of a model."""
        return torch.no_grad()

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Tensor:
        """Return uninitialised memory."""
        return torch.empty(shape, dtype=_torch_dtype(dtype), device=self.device)

    def zeros(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Tensor:
        """Return zeroed memory."""
        return torch.zeros(shape, dtype=_torch_dtype(dtype), device=self.device)

    def here(self, array: NDArray[Any]) -> Tensor:
        """Move an array to the device; on the CPU the memory is shared."""
        return _tensor(array).to(self.device)

    def host(self, array: Array) -> NDArray[Any]:
        """Copy a tensor to the host, waiting for the device."""
        found: NDArray[Any] = array
        if isinstance(array, torch.Tensor):
            moved = array.detach().cpu()
            is_bfloat16 = moved.dtype == torch.bfloat16  # which numpy lacks
            found = (moved.view(torch.int16) if is_bfloat16 else moved).numpy()
            found = found.view(BFLOAT16) if is_bfloat16 else found
        return found

    def source(self, array: Array) -> Source:
        """Return the tensor itself, or a view that moves what is read."""
        if isinstance(array, torch.Tensor) and array.device == self.device:
            source: Source = array
            return source
        return _Elsewhere(array, self.device)

    def holds(self, array: Array, dtype: np.dtype[Any]) -> bool:
        """Return whether a tensor or numpy array has that dtype."""
        return bool(array.dtype in (_torch_dtype(dtype), dtype))

    def coder(self, dtype: UnifiedDtype) -> Coder:
        """Return the coder for tensors."""
        return CODERS[dtype.name]

    def is_contiguous(self, array: Tensor) -> bool:
        """Return torch's answer."""
        return array.is_contiguous()

    def form_fault(self, layout: ParameterLayout, name: str, values: Array) -> str | None:
        """Return the layout's answer, or that the tensor is on another device."""
        if not isinstance(values, torch.Tensor):
            return f"is not a torch tensor on {self.device}"
        if values.device != self.device:
            return f"is on {values.device}, not on {self.device}"
        return layout.form_fault(name, values, torch.float32)

    def parts_of(self, mask: Array, parts: Sequence[slice]) -> Iterable[bytes]:
        """Return all parts, moved to the host at once."""
        if not isinstance(mask, torch.Tensor):
            return (mask[part].tobytes() for part in parts)
        places = np.concatenate([np.arange(part.start, part.stop) for part in parts])
        found = mask[torch.from_numpy(places).to(mask.device)].cpu().numpy()
        ends = np.cumsum([part.stop - part.start for part in parts])
        return (part.tobytes() for part in np.split(found, ends[:-1]))


class _Elsewhere:
    """A flat array in memory or on another device; slices are moved to the device."""

    def __init__(self, array: Array, device: torch.device) -> None:
        self._array = array
        self._device = device

    def __getitem__(self, part: slice) -> Tensor:
        found = self._array[part]
        if not isinstance(found, torch.Tensor):
            found = _tensor(found)
        return found.to(self._device)


def _tensor(array: NDArray[Any]) -> Tensor:
    """Return the memory as a tensor, or a copy if it is read-only, which torch warns about."""
    array = np.asarray(array) if array.flags.writeable else np.array(array)
    if array.dtype == BFLOAT16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def _torch_dtype(dtype: np.dtype[Any]) -> torch.dtype:
    """Return torch's dtype of the same name."""
    found: torch.dtype = getattr(torch, dtype.name)
    return found


class _Float32:
    """See `coders`, here and below."""

    def decode(self, stored: Tensor, scales: Tensor | None, out: Tensor) -> None:
        out.copy_(stored)

    def encode(self, values: Tensor, stored: Tensor, scales: Tensor | None) -> None:
        stored.copy_(values)


class _BFloat16:
    def decode(self, stored: Tensor, scales: Tensor | None, out: Tensor) -> None:
        out.copy_(stored)

    def encode(self, values: Tensor, stored: Tensor, scales: Tensor | None) -> None:
        patterns = values.view(torch.int32)
        magnitudes = patterns & MAGNITUDE
        # Signed patterns do not overflow: a magnitude is far below the largest.
        rounded = (patterns >> 16) & 1
        rounded += 0x7FFF
        rounded += patterns
        smallest = (patterns & ~MAGNITUDE) | 0x10000
        rounded = torch.where((magnitudes > 0) & (magnitudes <= 0x8000), smallest, rounded)
        patterns.copy_(rounded & ~0xFFFF)
        stored.view(torch.int16).copy_(rounded >> 16)


class _Int8:
    def decode(self, stored: Tensor, scales: Tensor | None, out: Tensor) -> None:
        assert scales is not None  # noqa: S101 - `UnifiedDtype.arrays` promises them
        torch.mul(stored, scales[:, None], out=out)

    def encode(self, values: Tensor, stored: Tensor, scales: Tensor | None) -> None:
        assert scales is not None  # noqa: S101 - `UnifiedDtype.arrays` promises them
        largest = torch.maximum(values.amax(dim=1), -values.amin(dim=1))
        steps = largest / torch.full_like(largest, INT8_STEPS)
        short = INT8_STEPS * steps < largest - steps  # see `coders`
        steps = torch.where(short, steps + SMALLEST, steps).clamp(min=SMALLEST)
        scales.copy_(torch.where(largest > 0, steps, torch.zeros_like(steps)))
        nearest = (values / steps[:, None]).round().clamp(-INT8_STEPS, INT8_STEPS)
        nearest = torch.where(nearest == 0, values.sign(), nearest)
        stored.copy_(nearest)
        torch.mul(nearest, steps[:, None], out=values)
        values += 0.0  # no -0


CODERS: Mapping[str, Coder] = {"float32": _Float32(), "bfloat16": _BFloat16(), "int8": _Int8()}
