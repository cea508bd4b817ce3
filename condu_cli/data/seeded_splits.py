"""The splits that the paper's code draws at random, kept as index files.

EuroSAT, Caltech101 and SUN397 have no published split; the authors draw one by torch's
`random_split` with seed 42. The draw is written down, one bit per picture, so that a task's
test pictures do not depend on a version of torch. `benchmarks/make_splits.py` makes the files.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from condu_cli.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

SPLIT_SEED = 42
TRAIN_SHARE = 0.8
ORDERS = {
    "caltech101": "class folders and numbers sorted, as torchvision.datasets.Caltech101",
    "eurosat": "class folders and file names sorted, as torchvision.datasets.EuroSAT",
    # torchvision takes the pictures as the file system lists them, which differs from disk to
    # disk; sorted is the one order that everybody can have.
    "sun397": "paths sorted",
}
"""The tasks with such a split, and the order in which their pictures are counted."""


def split_file(task: str) -> Path:
    """Where the index file of a task lies in the package."""
    return Path(str(files("condu_cli.data") / "splits" / f"{task}.json"))


def draw_split(count: int) -> NDArray[np.bool_]:
    """Draw which of `count` pictures are for training, as the authors' code does."""
    import torch
    from torch.utils.data import random_split

    train = int(TRAIN_SHARE * count)
    generator = torch.Generator().manual_seed(SPLIT_SEED)
    pictures: Any = range(count)  # anything with a length will do
    chosen = random_split(pictures, [train, count - train], generator=generator)[0]
    is_train = np.zeros(count, dtype=np.bool_)
    is_train[list(chosen.indices)] = True
    return is_train


def split_record(task: str, is_train: NDArray[np.bool_]) -> dict[str, Any]:
    """What an index file holds."""
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


def read_split_file(file: Path) -> NDArray[np.bool_]:
    """Read for each picture, in the set's order, whether it is for training.

    Raises:
        DataError: the file is missing or damaged.

    """
    try:
        record = json.loads(file.read_text("utf-8"))
        bits = base64.b64decode(record["bits"], validate=True)
        count, sha256 = int(record["count"]), record["sha256"]
    except (OSError, ValueError, KeyError, TypeError, binascii.Error) as exc:
        raise DataError(
            f"{file}: no index file of a split ({exc})", reason="installation-damaged", path=file
        ) from exc
    if hashlib.sha256(bits).hexdigest() != sha256 or len(bits) != (count + 7) // 8:
        raise DataError(
            f"{file}: the index file is damaged", reason="installation-damaged", path=file
        )
    packed = np.frombuffer(bits, dtype=np.uint8)
    return np.unpackbits(packed, count=count, bitorder="little").astype(np.bool_)
