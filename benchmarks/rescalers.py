"""Compare rescaler granularities and storage dtypes alone on experts trained on real pictures.

    python benchmarks/rescalers.py --data DIR --work DIR [--tasks ...] [--base mini]

DIR of --data holds one folder of pictures per task (TASK/train/CLASS, TASK/test/CLASS). Each task
is learned once, by `condu learn`, in a separate registry under --work that reproduces its single
expert exactly; those registries are the baseline (individual fine-tuning) and the source of the
deltas. The deltas are then unified one after another into a registry for each choice, with nothing
exact and nothing trimmed (`storing.py` compares those), and every task is measured by
`condu evaluate` at the end: the field's Last. Registries of earlier runs in --work are reused.
"""

from __future__ import annotations

import argparse
import platform
from datetime import date
from pathlib import Path

from command_line import condu
from single_experts import TASKS, add_expert, create, learn_alone

CHOICES = (
    ("global", "float32"),
    ("tensor", "float32"),
    ("row", "float32"),
    ("row", "bfloat16"),
    ("row", "int8"),
)


def unify_all(work: Path, alone: dict[str, Path], base: str, rescaler: str, dtype: str) -> Path:
    """Commit every task's expert, in order, to a registry of the given choice."""
    from condu_cli.registry.repository import Registry

    path = work / f"{rescaler}-{dtype}"
    if path.exists():
        return path
    create(path, base, "full", {"rescaler": rescaler, "dtype": dtype, "exact": "", "trim": "0"})
    registry = Registry.open(path)
    for task, source_path in alone.items():
        add_expert(registry, source_path, task)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--tasks", nargs="+", default=TASKS)
    parser.add_argument("--base", default="mini")
    options = parser.parse_args()
    import torch

    print(
        f"{date.today()}, {platform.machine()}, {torch.get_num_threads()} threads, {options.base}"
    )
    alone = {
        task: learn_alone(options.work, options.data, task, options.base) for task in options.tasks
    }
    columns = {"alone": {t: condu(r, "evaluate", "--task", t) for t, r in alone.items()}}
    sizes = {}
    for rescaler, dtype in CHOICES:
        registry = unify_all(options.work, alone, options.base, rescaler, dtype)
        name = f"{rescaler} {dtype}"
        columns[name] = {t: condu(registry, "evaluate", "--task", t) for t in options.tasks}
        report = condu(registry, "storage-report")
        sizes[name] = (report["unified_bytes"] + report["mask_bytes"]) / 1e6
    print(" | ".join(("task", *columns)))
    for task in options.tasks:
        figures = (f"{100 * column[task]['accuracy']:.1f}" for column in columns.values())
        print(" | ".join((task, *figures)))
    means = (
        f"{100 * sum(c[t]['accuracy'] for t in options.tasks) / len(options.tasks):.1f}"
        for c in columns.values()
    )
    print(" | ".join(("mean", *means)))
    print(" | ".join(("unified delta and masks, MB", "", *(f"{n:.1f}" for n in sizes.values()))))


if __name__ == "__main__":
    main()
