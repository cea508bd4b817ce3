"""Make the index files of the seeded splits: which pictures of a set are for training.

The paper's code splits EuroSAT, Caltech101 and SUN397 by torch's `random_split` with seed 42.
The draw is stored once, so that a split does not depend on the version of torch; a test compares it
with the draw of the installed version.

    python benchmarks/make_splits.py [TASK ...]
"""

from __future__ import annotations

import base64
import hashlib
import json
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import random_split

from condu_cli.data.seeded_splits import split_file
from condu_cli.data.sources.known_tasks import known_tasks

if TYPE_CHECKING:
    from numpy.typing import NDArray

SPLIT_SEED = 42
TRAIN_SHARE = 0.8
ORDERS = {
    "caltech101": "class folders and numbers sorted, as torchvision.datasets.Caltech101",
    "eurosat": "class folders and file names sorted, as torchvision.datasets.EuroSAT",
    # torchvision lists pictures in the file system's order, which differs from disk to
    # disk; sorting gives the same order everywhere.
    "sun397": "paths sorted",
}
"""The tasks with such a split, and the order in which their pictures are counted."""


def draw_split(count: int) -> NDArray[np.bool_]:
    """Draw which of `count` pictures are for training, as the authors' code does."""
    train = int(TRAIN_SHARE * count)
    generator = torch.Generator().manual_seed(SPLIT_SEED)
    pictures: Any = range(count)  # anything with a length works
    chosen = random_split(pictures, [train, count - train], generator=generator)[0]
    is_train = np.zeros(count, dtype=np.bool_)
    is_train[list(chosen.indices)] = True
    return is_train


def split_record(task: str, is_train: NDArray[np.bool_]) -> dict[str, Any]:
    """Return the content of an index file."""
    bits = np.packbits(is_train, bitorder="little").tobytes()
    return {
        "task": task,
        "count": len(is_train),
        "train": int(is_train.sum()),
        "made": f"torch.utils.data.random_split, generator seed {SPLIT_SEED}, "
        f"int({TRAIN_SHARE} * count) for training",
        "order": ORDERS[task],
        "encoding": "one bit per picture, 1 for training, little bit order, base64",
        "sha256": hashlib.sha256(bits).hexdigest(),
        "bits": base64.b64encode(bits).decode("ascii"),
    }


def main(tasks: list[str]) -> None:
    for task in tasks or ORDERS:
        record = split_record(task, draw_split(known_tasks()[task].images))
        file = split_file(task)
        file.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        print(f"{file}: {record['train']:,} of {record['count']:,} pictures for training")


if __name__ == "__main__":
    main(sys.argv[1:])
