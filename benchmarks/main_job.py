"""Learn two tasks one after another and measure zero-shot, learned and kept accuracy, and storage.

    python benchmarks/main_job.py --data DIR [--tasks eurosat oxford_pets]

DIR holds one folder of pictures per task (TASK/train/CLASS, TASK/test/CLASS). The baseline is the
base model's zero-shot accuracy on the same pictures in the same run; for the disk, one full
checkpoint per task. Everything goes through the command line, as a user would do it.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
from datetime import date
from pathlib import Path

from command_line import condu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--tasks", nargs="+", default=["eurosat", "oxford_pets"])
    parser.add_argument("--base", default="mini")
    options = parser.parse_args()
    import torch

    print(
        f"{date.today()}, {platform.machine()}, {torch.get_num_threads()} threads, {options.base}"
    )
    with tempfile.TemporaryDirectory() as folder:
        registry = Path(folder, "registry")
        condu(registry, "init", "--base", options.base)
        learned = {}
        for task in options.tasks:
            run = condu(registry, "learn", "--task", task, "--data", options.data / task)
            own = condu(registry, "evaluate", "--task", task, "--zero-shot")
            learned[task] = (run, own)
        header = (
            "task",
            "zero-shot",
            "learned",
            "at the end",
            "kept",
            "union",
            "train s",
            "unify %",
        )
        print(" | ".join(header))
        for task, (run, own) in learned.items():
            last = condu(registry, "evaluate", "--task", task)
            union = condu(registry, "evaluate", "--task", task, "--label-space", "union")
            share = (run["unify_seconds"] + run["commit_seconds"]) / run["train_seconds"]
            row = (
                task,
                f"{own['zero_shot']:.3f}",
                f"{own['accuracy']:.3f}",
                f"{last['accuracy']:.3f}",
                f"{last['accuracy'] / own['accuracy']:.3f}",
                f"{union['accuracy']:.3f}",
                f"{run['train_seconds']:.0f}",
                f"{100 * share:.2f}",
            )
            print(" | ".join(row))
        report = condu(registry, "storage-report")
        state = sum(report[f"{part}_bytes"] for part in ("unified", "mask", "prototype"))
        print(f"bytes of the last session: {state:,}")
        print(f"one checkpoint per task:   {report['individual_ft_bytes']:,}")
        print(f"ratio:                     {report['individual_ft_bytes'] / state:.2f}")


if __name__ == "__main__":
    main()
