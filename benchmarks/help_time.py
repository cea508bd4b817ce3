"""Measure `condu --help` against importing the two libraries that print it.

    python benchmarks/help_time.py [--runs N]

Each figure is the processor time of a whole process, the median of N runs taken in turn. The last
line is their ratio; it should stay below 2.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys

COMMANDS = {
    "import typer and rich": ("-c", "import typer, typer.rich_utils"),
    "condu --help": ("-m", "condu_cli", "--help"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=15)
    runs = parser.parse_args().runs
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(runs + 1):
        for name, command in COMMANDS.items():
            times[name].append(processor_seconds(command))
    # The first run of each fills the disk cache.
    medians = {name: statistics.median(found[1:]) for name, found in times.items()}
    for name, median in medians.items():
        print(f"{name:22} {median * 1000:5.0f} ms")
    baseline, measured = medians.values()
    print(f"{'ratio':22} {measured / baseline:5.2f}")


def processor_seconds(arguments: tuple[str, ...]) -> float:
    before = os.times()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)  # noqa: S603
    after = os.times()
    spent = after.children_user + after.children_system
    return spent - before.children_user - before.children_system


if __name__ == "__main__":
    main()
