"""Unify and decouple against a dense reference and a plain copy, at the size of a real model.

    python benchmarks/fusion.py [--model ViT-B-16 | mini] [--tasks 1 2 4 8 11 16 32 64]
                                [--dense-gigabytes N] [--rescaler global | tensor | row]

Builds the list of parameters from the architecture (no weights are needed), with random deltas in
which all but a few rows of the token embedding are exactly zero, as fine-tuning leaves them.
Learns one delta after another; at each number of tasks asked for, the same inputs go through

    dense   every old expert materialised, one row of a torch matrix each, as in the definition
    ours    `unify`, as the program calls it
    copy    the bytes that ours reads (old unified delta, old masks, new delta), copied once

each into memory that is allocated afresh, as a session needs it. Extra memory is what the
process grew by at most, without inputs and result. `differ` counts mask bits that are not those
of the dense reference: its sums are rounded, ours are not, so a few of the closest ties may.
"""

from __future__ import annotations

import argparse
import gc
import platform
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from condu_cli.core.arrays.layout import ParameterLayout
from condu_cli.core.codecs.condu.codec import ConduCodec
from condu_cli.core.codecs.interface import EMPTY
from condu_cli.core.merging.decouple import Target, decouple_into
from condu_cli.core.merging.masks import MaskBytes, tensor_mask
from condu_cli.core.merging.method import Method
from condu_cli.core.merging.unify import Unified, unify
from condu_cli.core.passes.kernels import threads

if TYPE_CHECKING:
    from collections.abc import Callable

    from condu_cli.core.codecs.interface import EncodedState

EMBEDDINGS = ("token_embedding.weight", "text.embeddings.word_embeddings.weight")
USED_TOKENS = 400
STEP = 1e-3


def parameter_layout(model: str) -> ParameterLayout:
    """Names and shapes of the trainable parameters of `mini` or an open_clip architecture."""
    if model == "mini":
        from condu_cli.backbone.base_models import load_base

        tensors = dict(load_base("mini").trainable_parameters())
    else:
        import open_clip

        built = open_clip.create_model(model, device="meta")
        tensors = {n: p for n, p in built.named_parameters() if n != "logit_scale"}
    return ParameterLayout(tuple(tensors), tuple(tuple(t.shape) for t in tensors.values()))


def random_delta(layout: ParameterLayout, task: int) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(task)
    delta = {}
    for name, shape in zip(layout.names, layout.shapes, strict=True):
        values = generator.standard_normal(shape, dtype=np.float32)
        values *= np.float32(STEP)
        if name in EMBEDDINGS:
            unused = np.ones(shape[0], dtype=bool)
            unused[generator.choice(shape[0], USED_TOKENS, replace=False)] = False
            values[unused] = 0
        delta[name] = values
    return delta


@dataclass
class Run:
    seconds: float
    extra_gigabytes: float
    result: Any


def measure(work: Callable[[], Any], result_bytes: Callable[[Any], int], repeat: int) -> Run:
    """Return the best time and the peak memory, without the result, of `repeat` runs."""
    best, extra, result = float("inf"), 0.0, None
    for _ in range(repeat):
        result = None
        gc.collect()
        with Memory() as memory:
            started = time.perf_counter()
            result = work()
            best = min(best, time.perf_counter() - started)
        extra = max(extra, memory.growth - result_bytes(result))
    return Run(best, max(extra, 0.0) / 1e9, result)


class Memory:
    """Measure how many bytes the process grows by at most, sampled every few milliseconds."""

    def __enter__(self) -> Memory:
        self._before = self._peak = self._resident()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    @property
    def growth(self) -> int:
        return self._peak - self._before

    def _watch(self) -> None:
        while not self._done.wait(0.003):
            self._peak = max(self._peak, self._resident())
        self._peak = max(self._peak, self._resident())

    @staticmethod
    def _resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@dataclass
class Dense:
    """The old experts as the reference keeps them: flat, a byte for each bit of a mask."""

    unified: torch.Tensor
    masks: list[torch.Tensor]
    rescalers: list[float]

    @classmethod
    def of(cls, layout: ParameterLayout, state: Unified | None) -> Dense:
        if state is None:
            return cls(torch.zeros(layout.count), [], [])
        masks = [torch.from_numpy(flat_mask(layout, trigger.mask)) for trigger in state.triggers]
        rescalers = [float(trigger.rescaler[0]) for trigger in state.triggers]
        return cls(torch.from_numpy(flatten(state.unified)), masks, rescalers)

    def unify(self, new: torch.Tensor) -> Dense:
        """The definition over materialised experts, plainly in torch."""
        experts = torch.empty(len(self.masks) + 1, new.numel())
        for row, mask, rescaler in zip(experts, self.masks, self.rescalers, strict=False):
            row.copy_(self.unified * mask * rescaler)
        experts[-1] = new
        total = torch.zeros(new.numel(), dtype=torch.float64)
        for row in experts:
            total += row
        unified = torch.where(total > 0, experts.amax(0), experts.amin(0))
        masks = [row * unified > 0 for row in experts]
        rescalers = [
            float(
                row.abs().sum(dtype=torch.float64) / (mask * unified).abs().sum(dtype=torch.float64)
            )
            for row, mask in zip(experts, masks, strict=True)
        ]
        return Dense(unified, masks, rescalers)

    @property
    def bytes(self) -> int:
        return self.unified.nbytes + sum(mask.nbytes for mask in self.masks)


def flatten(tensors: dict[str, np.ndarray]) -> np.ndarray:
    return np.concatenate([tensor.reshape(-1) for tensor in tensors.values()])


def flat_mask(layout: ParameterLayout, mask: MaskBytes) -> np.ndarray:
    return flatten({name: tensor_mask(mask, layout, name) for name in layout.names})


def unified_bytes(state: Unified) -> int:
    return sum(a.nbytes for a in state.unified.values()) + sum(
        t.mask.nbytes for t in state.triggers
    )


def copy_all(arrays: list[np.ndarray]) -> list[np.ndarray]:
    """Copy arrays to new memory, cut in pieces for as many threads as there are processors."""
    copies = [np.empty_like(array) for array in arrays]
    pieces = []
    for array, copy in zip(arrays, copies, strict=True):
        flat, to = array.reshape(-1), copy.reshape(-1)
        pieces += [(to[i : i + 2**18], flat[i : i + 2**18]) for i in range(0, flat.size, 2**18)]
    with ThreadPoolExecutor(threads()) as pool:
        list(pool.map(lambda piece: np.copyto(*piece), pieces))
    return copies


def different_bits(layout: ParameterLayout, state: Unified, dense: Dense) -> int:
    found = 0
    for trigger, mask in zip(state.triggers, dense.masks, strict=True):
        ours = flat_mask(layout, trigger.mask)
        found += int(np.count_nonzero(ours != mask.numpy()))
    return found


def compare(options: argparse.Namespace, layout: ParameterLayout) -> None:
    """The table over the number of tasks."""
    method = Method(layout, options.rescaler)
    print(
        "tasks | ours s | dense s | ratio | copy s | ours/copy | ours extra GB | dense extra GB"
        " | ratio | disk MB | differ"
    )
    state: Unified | None = None
    unify(Method(ParameterLayout(("warm",), ((64,),))), None, [], {"warm": np.ones(64, np.float32)})
    for task in range(1, max(options.tasks) + 1):
        delta = random_delta(layout, task)
        unified, triggers = (state.unified, state.triggers) if state else (None, [])

        def ours(u=unified, t=triggers, d=delta) -> Unified:
            return unify(method, u, t, d)

        if task not in options.tasks:
            state = ours()
            continue
        run = measure(ours, unified_bytes, options.repeat)
        inputs = [*(unified or {}).values(), *(t.mask for t in triggers), *delta.values()]
        copied = measure(lambda a=inputs: copy_all(a), lambda r: 0, options.repeat).seconds
        row = [f"{task}", f"{run.seconds:.2f}"]
        dense_text, memory_text, differ = ["-", "-"], ["-", "-"], "-"
        needed = layout.count * (4 * task + 2 * task + 40) / 1e9
        if options.rescaler == "global" and needed < options.dense_gigabytes:
            dense, new = Dense.of(layout, state), torch.from_numpy(flatten(delta))
            plain = measure(lambda d=dense, n=new: d.unify(n), lambda r: r.bytes, 1)
            dense_text = [f"{plain.seconds:.1f}", f"{plain.seconds / run.seconds:.0f}"]
            ratio = plain.extra_gigabytes / max(run.extra_gigabytes, 1e-3)
            memory_text = [f"{plain.extra_gigabytes:.2f}", f"{ratio:.0f}"]
            differ = str(different_bits(layout, run.result, plain.result))
            del dense, new, plain
        disk = disk_bytes(layout, run.result, options.rescaler) / 1e6
        row += [*dense_text, f"{copied:.2f}", f"{run.seconds / copied:.1f}"]
        row += [f"{run.extra_gigabytes:.3f}", *memory_text, f"{disk:.0f}", differ]
        print(" | ".join(row), flush=True)
        state = run.result
        del run, inputs


def disk_bytes(layout: ParameterLayout, state: Unified, rescaler: str) -> int:
    from condu_cli.core.codecs.condu.stored_masks import encode_mask

    parts = sum(
        sum(array.nbytes for array in encode_mask(t.mask).values()) + t.rescaler.nbytes
        for t in state.triggers
    )
    return parts + sum(array.nbytes for array in state.unified.values())


def storage(options: argparse.Namespace, layout: ParameterLayout) -> None:
    """Bytes on disk and reconstruction error of every dtype and mask form after N sessions.

    The error is ||expert - exact||_1 / ||exact||_1, mean over tasks, against the same sessions
    kept in float32; after the first session, and after the last, when every value has been stored
    again and again.
    """
    print(f"\nstorage after {options.sessions} tasks, rescalers: {options.rescaler}")
    print(
        "dtype | unified MB | raw masks MB | masks as stored MB | total MB | MiB"
        " | error after 1 | error at the end"
    )
    exact: dict[int, EncodedState] = {}
    for dtype in ("float32", "bfloat16", "int8"):
        codec = ConduCodec(layout, {"dtype": dtype, "rescaler": options.rescaler})
        state, errors = EMPTY, []
        for task in range(1, options.sessions + 1):
            state = codec.encode(state, random_delta(layout, task))
            if task in (1, options.sessions):
                if dtype == "float32":
                    exact[task] = state
                errors.append(reconstruction_error(layout, dtype, options, state, exact[task]))
        shared = sum(array.nbytes for array in (state.shared or {}).values())
        raw = layout.mask_bytes * len(state.parts)
        stored = sum(sum(array.nbytes for array in part.values()) for part in state.parts)
        figures = (shared / 1e6, raw / 1e6, stored / 1e6, (shared + stored) / 1e6)
        print(
            " | ".join(
                (
                    dtype,
                    *(f"{figure:.1f}" for figure in figures),
                    f"{(shared + stored) / 2**20:.1f}",
                    *(f"{100 * error:.3f} %" for error in errors),
                )
            ),
            flush=True,
        )


def reconstruction_error(
    layout: ParameterLayout,
    dtype: str,
    options: argparse.Namespace,
    state: EncodedState,
    exact: EncodedState,
) -> float:
    """Of the first task, which was stored again in every session."""
    codec = ConduCodec(layout, {"dtype": dtype, "rescaler": options.rescaler})
    reference = ConduCodec(layout, {"rescaler": options.rescaler})
    distance = norm = 0.0
    pairs = zip(
        codec.decode(state.shared, state.parts[0]),
        reference.decode(exact.shared, exact.parts[0]),
        strict=True,
    )
    for (_, found), (_, wanted) in pairs:
        distance += float(np.abs(found - wanted).sum(dtype=np.float64))
        norm += float(np.abs(wanted).sum(dtype=np.float64))
    return distance / norm


def decoupling(options: argparse.Namespace, layout: ParameterLayout) -> None:
    """One expert into a loaded model's weights, against copying those weights.

    Both write into the same memory, which has been written to before: a loaded model's.
    """
    print("\ndecouple one expert into a loaded model | s | over copying its weights")
    base, weights = random_delta(layout, 1), random_delta(layout, 2)
    pieces = [(weights[name], base[name]) for name in layout.names]

    def copy() -> None:
        with ThreadPoolExecutor(threads()) as pool:
            list(pool.map(lambda piece: np.copyto(*piece), pieces))

    copied = measure(copy, lambda r: 0, 5)
    print(f"copy of the weights, {threads()} threads | {copied.seconds:.3f} | 1.00")
    for dtype in ("float32", "bfloat16", "int8"):
        method = Method(layout, options.rescaler, dtype)
        state = unify(method, None, [], random_delta(layout, 3))
        state = unify(method, state.unified, state.triggers, random_delta(layout, 4))
        target = Target(state.triggers[0], weights)
        run = measure(
            lambda m=method, s=state, t=target: decouple_into(m, s.unified, base, [t]),
            lambda r: 0,
            5,
        )
        ratio = run.seconds / copied.seconds
        print(f"decouple, {dtype} | {run.seconds:.3f} | {ratio:.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="ViT-B-16")
    parser.add_argument("--tasks", type=int, nargs="*", default=[1, 2, 4, 8, 11, 16, 32, 64])
    parser.add_argument("--rescaler", default="global")
    parser.add_argument("--sessions", type=int, default=11, help="of the table of storage")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--dense-gigabytes", type=float, default=18.0)
    options = parser.parse_args()
    layout = parameter_layout(options.model)
    print(
        f"{date.today()}, {platform.machine()}, {threads()} processors, {options.model}: "
        f"{layout.count / 1e6:.1f} M parameters in {len(layout.names)} tensors, "
        f"rescalers: {options.rescaler}"
    )
    if options.tasks:
        compare(options, layout)
    if options.sessions:
        storage(options, layout)
    decoupling(options, layout)


if __name__ == "__main__":
    main()
