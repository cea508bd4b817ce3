"""Steps per second of condu's training against the authors' loop, on the same batches.

Their loop, as it is published with ConDU: every class prompt is encoded at the full context for
every batch, in float32, with AdamW's plain implementation. Both start from the same weights, see
the same batches and take the same number of steps in turn; the table gives steps per second,
their ratio, and the largest difference of the losses.

    python benchmarks/training.py --base ViT-B-32 --classes 10 100 397
    python benchmarks/training.py --base mini --classes 10 100 397

An architecture without a tag gets random weights: speed does not depend on them.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from condu_cli.backbone.devices import resolve_device
from condu_cli.train.objective import Objective
from condu_cli.train.recipe import Recipe

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from condu_cli.backbone.dual_encoder import DualEncoder

    Batches = list[tuple[Tensor, Tensor]]

LEARNING_RATE = 1e-5
TEMPLATE = "a photo of a {}."
LABEL_SMOOTHING = 0.2


@dataclass(frozen=True)
class Measured:
    """Seconds of every step but the first, and the loss of every step."""

    seconds: list[float]
    losses: list[float]

    @property
    def steps_per_second(self) -> float:
        return 1 / sorted(self.seconds)[len(self.seconds) // 2]


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
    device = resolve_device(given.device)
    base = load(given.base).to(device)
    size = given.image_size or base.preprocessing.image_size
    print(f"{given.base}, batch {given.batch_size} at {size} px, {describe(device)}")
    print(f"{'classes':>7} {'loop':>14} {'steps/s':>8} {'ratio':>6} {'loss difference':>16}")
    for classes in given.classes:
        names = class_names(classes)
        batches = make_batches(given.steps, given.batch_size, size, classes)
        loops = {"authors'": their_steps(base.expert_copy(), names, batches)} | {
            f"condu {precision}": our_steps(base.training_copy(), names, batches, precision)
            for precision in given.precisions
        }
        found = run(loops, given.steps)
        for name, measured in found.items():
            show(classes, name, measured, found["authors'"])


def load(name: str) -> DualEncoder:
    """A base model by condu's name, or an open_clip architecture with random weights."""
    from condu_cli.backbone.base_models import load_base
    from condu_cli.backbone.models import open_clip_models

    if name in ("mini", "tiny") or ":" in name:
        return load_base(name)
    return open_clip_models.load(name, open_clip_models.resolve(name, ""))


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


def run(loops: dict[str, Iterator[float]], steps: int) -> dict[str, Measured]:
    """Take a step of every loop in turn, so that slowdowns of the machine affect all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in loops}
    losses: dict[str, list[float]] = {name: [] for name in loops}
    for _ in range(steps):
        for name, loop in loops.items():
            started = time.perf_counter()
            losses[name].append(next(loop))  # ends with .item(), which waits for the device
            seconds[name].append(time.perf_counter() - started)
    return {name: Measured(seconds[name][1:], losses[name]) for name in loops}


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
        optimizer.zero_grad()  # and no gradients in memory while the others take their steps
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


def show(classes: int, name: str, found: Measured, baseline: Measured) -> None:
    ratio = found.steps_per_second / baseline.steps_per_second
    pairs = zip(found.losses, baseline.losses, strict=True)
    difference = max(abs(a - b) for a, b in pairs)
    line = f"{classes:7} {name:>14} {found.steps_per_second:8.3f} {ratio:6.2f} {difference:16.1e}"
    print(line, flush=True)


def describe(device: str) -> str:
    if device.startswith("cuda"):
        return str(torch.cuda.get_device_name())
    return f"{torch.get_num_threads()} CPU threads"


if __name__ == "__main__":
    main()
