"""Make the index files of the seeded splits: which pictures of a set are for training.

The paper's code splits EuroSAT, Caltech101 and SUN397 by torch's `random_split` with seed 42.
The draw is written down once, so that a split does not depend on a version of torch; a test
compares what the installed one draws.

    python benchmarks/make_splits.py [TASK ...]
"""

from __future__ import annotations

import json
import sys

from condu_cli.data.seeded_splits import ORDERS, draw_split, split_file, split_record
from condu_cli.data.sources.known_tasks import known_tasks


def main(tasks: list[str]) -> None:
    for task in tasks or ORDERS:
        record = split_record(task, draw_split(known_tasks()[task].images))
        file = split_file(task)
        file.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        print(f"{file}: {record['train']:,} of {record['count']:,} pictures for training")


if __name__ == "__main__":
    main(sys.argv[1:])
