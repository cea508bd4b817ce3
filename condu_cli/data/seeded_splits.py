"""The random splits of the paper's code, stored as index files.

EuroSAT, Caltech101 and SUN397 have no published split; the authors draw one with torch's
`random_split` and seed 42. The draw is stored, one bit per picture, so that a task's test pictures
do not depend on the version of torch. `benchmarks/make_splits.py` writes the files.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from condu_cli.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray


def split_file(task: str) -> Path:
    """Return the path of a task's index file in the package."""
    return Path(str(files("condu_cli.data") / "splits" / f"{task}.json"))


def read_split_file(file: Path) -> NDArray[np.bool_]:
    """Read a split: for each picture, in the set's order, whether it is for training, bool (N,).

    Raises:
        DataError: the file is missing or corrupt.

    """
    try:
        record = json.loads(file.read_text("utf-8"))
        bits = base64.b64decode(record["bits"], validate=True)
        count, sha256 = int(record["count"]), record["sha256"]
    except (OSError, ValueError, KeyError, TypeError, binascii.Error) as exc:
        raise DataError(
            f"{file}: not the index file of a split ({exc})",
            reason="installation-damaged",
            path=file,
        ) from exc
    if hashlib.sha256(bits).hexdigest() != sha256 or len(bits) != (count + 7) // 8:
        raise DataError(
            f"{file}: the index file is corrupt", reason="installation-damaged", path=file
        )
    packed = np.frombuffer(bits, dtype=np.uint8)
    return np.unpackbits(packed, count=count, bitorder="little").astype(np.bool_)
