"""Measure a base model's zero-shot accuracy on folders of pictures, compared with guessing.

python benchmarks/zero_shot.py --data DIR [--base mini] [--tasks NAME …]
"""

from __future__ import annotations

import argparse
import platform
from datetime import date
from pathlib import Path

from condu_cli.backbone.base_models import load_base
from condu_cli.data.pictures.transforms import view_of
from condu_cli.data.pictures.windows import windows
from condu_cli.data.sources.folders import read_folder
from condu_cli.data.sources.known_tasks import DEFAULT_TEMPLATES
from condu_cli.workflows.answering.answers import Candidate
from condu_cli.workflows.answering.panel import logits_of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--base", default="mini")
    parser.add_argument("--tasks", nargs="*")
    options = parser.parse_args()
    base = load_base(options.base)
    names = options.tasks or sorted(p.name for p in options.data.iterdir() if p.is_dir())
    print(f"{date.today()}, {platform.machine()}, base {options.base}, '{DEFAULT_TEMPLATES[0]}'")
    print("task | pictures | zero-shot | guessing | ratio")
    for name in names:
        data = read_folder(options.data / name)
        candidates = [Candidate(label, None, DEFAULT_TEMPLATES) for label in data.class_names]
        view = view_of(base.preprocessing)
        labels = [sample.label for sample in data.test]
        right = 0
        for window in windows([sample.picture for sample in data.test], [view.geometry]):
            predicted = logits_of(base, candidates, window.views[view.geometry], view)
            rows = zip(predicted.argmax(axis=1), window.places, strict=True)
            right += sum(int(label) == labels[place] for label, place in rows)
        accuracy, guess = right / len(labels), 1 / len(data.class_names)
        print(f"{name} | {len(labels)} | {accuracy:.3f} | {guess:.3f} | {accuracy / guess:.1f}")


if __name__ == "__main__":
    main()
