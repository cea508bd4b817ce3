"""Steps per second of condu's training against the authors' loop, on the same batches.

Their loop, as it is published with ConDU: every class prompt is encoded at the full context for
every batch, in float32, with AdamW's plain implementation. condu's runs as `condu learn` does, and
once more with glibc's own settings, which give freed memory back at once. All start from the same
weights and see the same batches. Each has a process of its own, and they take their steps in turn.
The table gives the medians of steps per second and of processor seconds per step (user and
system), the ratio of both to the authors' loop, the largest memory, and the largest difference of
the losses.

    python benchmarks/training.py --base ViT-B-32 --classes 10 100 397
    python benchmarks/training.py --base mini --classes 10 100 397

An architecture without a tag gets random weights: speed does not depend on them.
"""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import dataclass, field
from multiprocessing import get_context
from statistics import median
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from condu_cli.backbone.allocator import keep_freed_memory
from condu_cli.backbone.devices import resolve_device
from condu_cli.backbone.models import mini
from condu_cli.train.objective import Objective
from condu_cli.train.recipe import Recipe

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.connection import Connection

    from torch import Tensor

    from condu_cli.backbone.dual_encoder import DualEncoder

    Batches = list[tuple[Tensor, Tensor]]

LEARNING_RATE = 1e-5
TEMPLATE = "a photo of a {}."
LABEL_SMOOTHING = 0.2


@dataclass(frozen=True)
class Loop:
    """Whose loop, in which precision; `keeps`: whether glibc is told to keep freed memory."""

    authors: bool
    precision: str = "float32"
    keeps: bool = False


@dataclass(frozen=True)
class Step:
    """What a step took (seconds), the process's largest memory so far (bytes), and its loss."""

    wall: float
    user: float
    system: float
    peak: int
    loss: float


@dataclass
class Measured:
    """The steps of one loop; the first, which warms up, counts only for its loss."""

    steps: list[Step] = field(default_factory=list)

    def median(self, name: str) -> float:
        return median(getattr(step, name) for step in self.steps[1:])

    @property
    def processor(self) -> float:
        return median(step.user + step.system for step in self.steps[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--base", default="ViT-B-32")
    parser.add_argument("--classes", type=int, nargs="+", default=[10, 100, 397])
    parser.add_argument("--steps", type=int, default=4, help="the first is not timed")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--image-size", type=int, help="for base models that accept several")
    parser.add_argument("--precisions", nargs="+", default=["float32"])
    parser.add_argument("--device", default="auto")
    given = parser.parse_args()
    given.device = resolve_device(given.device)
    print(f"{given.base}, batches of {given.batch_size}, {describe(given.device)}")
    columns = ("steps/s", "ratio", "user s", "system s", "ratio", "peak MB", "loss difference")
    print(f"{'classes':>7} {'loop':>22} " + " ".join(f"{name:>8}" for name in columns))
    loops = {"authors'": Loop(authors=True)}
    for precision in given.precisions:
        loops[f"condu {precision}, glibc"] = Loop(False, precision)
        loops[f"condu {precision}"] = Loop(False, precision, keeps=True)
    for classes in given.classes:
        found = run(given, loops, classes)
        for name, measured in found.items():
            show(classes, name, measured, found["authors'"])


def load(name: str) -> DualEncoder:
    """A base model by condu's name, or an open_clip architecture with random weights."""
    from condu_cli.backbone.base_models import load_base
    from condu_cli.backbone.models import open_clip_models, open_clip_specs

    if name in ("mini", "tiny") or ":" in name:
        return load_base(name)
    return open_clip_models.load(name, open_clip_specs.resolve(name, ""))


def class_names(count: int) -> list[str]:
    """The first ImageNet class names: words as long as those of real data sets."""
    from timm.data import ImageNetInfo

    names = ImageNetInfo("imagenet-1k").label_descriptions()
    return [name.split(",")[0] for name in names[:count]]


def make_batches(steps: int, batch_size: int, size: int, classes: int) -> Batches:
    generator = torch.Generator().manual_seed(0)
    return [
        (
            torch.randn(batch_size, 3, size, size, generator=generator),
            torch.randint(classes, (batch_size,), generator=generator),
        )
        for _ in range(steps)
    ]


def run(given: argparse.Namespace, loops: dict[str, Loop], classes: int) -> dict[str, Measured]:
    """Take a step of every loop in turn, so that slowdowns of the machine affect all of them."""
    context = get_context("spawn")
    measured = {name: Measured() for name in loops}
    pipes: dict[str, Connection] = {}
    processes = []
    for name, loop in loops.items():
        pipes[name], other = context.Pipe()
        processes.append(context.Process(target=work, args=(other, given, loop, classes)))
        processes[-1].start()
        other.close()  # a process that dies closes the pipe
    for _ in range(given.steps):
        for name, pipe in pipes.items():
            pipe.send(None)
            measured[name].steps.append(pipe.recv())
    for process in processes:
        process.join()
    return measured


def work(pipe: Connection, given: argparse.Namespace, loop: Loop, classes: int) -> None:
    """Take a step whenever the other end asks for one; the body of a loop's process."""
    if not loop.keeps:
        # glibc read its settings at the start: this only tells condu that the user has some.
        os.environ["MALLOC_TRIM_THRESHOLD_"] = ""
    elif not keep_freed_memory():
        raise SystemExit("this process's malloc cannot be told to keep memory")
    if loop.authors:
        # timm's own layers, and a batch norm is a pass over the feature map.
        mini.feature_map = lambda tower, pixels: tower.forward_features(pixels)
    base = load(given.base).to(given.device)
    names = class_names(classes)
    size = given.image_size or base.preprocessing.image_size
    batches = make_batches(given.steps, given.batch_size, size, classes)
    steps = (
        their_steps(base.expert_copy(), names, batches)
        if loop.authors
        else our_steps(base.training_copy(), names, batches, loop.precision)
    )
    for _ in range(given.steps):
        pipe.recv()
        pipe.send(timed(steps))


def timed(steps: Iterator[float]) -> Step:
    import resource

    def used() -> Any:
        return resource.getrusage(resource.RUSAGE_SELF)

    before, started = used(), time.perf_counter()
    loss = next(steps)  # ends with .item(), which waits for the device
    wall, after = time.perf_counter() - started, used()
    user, system = after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime
    return Step(wall, user, system, after.ru_maxrss * 1024, loss)


def their_steps(model: DualEncoder, names: list[str], batches: Batches) -> Iterator[float]:
    """Run the authors' loop: all prompts at the full context, one graph, default AdamW."""
    prompts = [TEMPLATE.format(name) for name in names]
    tokens = {name: tensor.to(model.device) for name, tensor in model.tokenize(prompts).items()}
    parameters = list(model.trainable_parameters().values())
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE, weight_decay=0.0)
    for pixels, labels in batches:
        images = model.encode_images(pixels.to(model.device))
        logits = model.logit_scale_value * images @ model.encode_tokens(tokens).T
        loss = functional.cross_entropy(
            logits, labels.to(logits.device), label_smoothing=LABEL_SMOOTHING
        )
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        yield loss.item()


def our_steps(
    model: DualEncoder, names: list[str], batches: Batches, precision: str
) -> Iterator[float]:
    """Run the iterations of condu's `finetune` on prepared batches."""
    recipe = Recipe(len(batches), LEARNING_RATE, 0, template=TEMPLATE, precision=precision)
    parameters = list(model.trainable_parameters().values())
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE, weight_decay=0.0, fused=True)
    objective = Objective(model, names, recipe)
    for batch in batches:
        loss = objective.accumulate([batch], len(batch[1])).item()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        yield loss


def show(classes: int, name: str, found: Measured, authors: Measured) -> None:
    pairs = zip(found.steps, authors.steps, strict=True)
    figures = (
        f"{1 / found.median('wall'):8.3f}",
        f"{authors.median('wall') / found.median('wall'):8.2f}",
        f"{found.median('user'):8.2f}",
        f"{found.median('system'):8.2f}",
        f"{authors.processor / found.processor:8.2f}",
        f"{found.steps[-1].peak / 1e6:8.0f}",
        f"{max(abs(a.loss - b.loss) for a, b in pairs):15.1e}",
    )
    print(f"{classes:7} {name:>22} {' '.join(figures)}", flush=True)


def describe(device: str) -> str:
    if device.startswith("cuda"):
        return str(torch.cuda.get_device_name())
    return f"{torch.get_num_threads()} CPU threads"


if __name__ == "__main__":
    main()
