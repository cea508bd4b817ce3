"""Peak memory of `condu import` beside the size of the model in float32.

    python benchmarks/import_memory.py [--architecture ViT-B-32]

Random weights stand in for the base model's, and the checkpoint is 1 % away from them: what they
are does not matter here. The interpreter with its libraries is measured by itself and subtracted.
"""

from __future__ import annotations

import argparse
import platform
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path

import open_clip
import torch
from safetensors.torch import save_file

LIBRARIES = "import torch, open_clip, condu_cli.workflows.transfers.importing"
MEASURED = (
    "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True); "
    "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--architecture", default="ViT-B-32")
    architecture = parser.parse_args().architecture
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        size = make(architecture, work)
        libraries = peak(sys.executable, "-c", LIBRARIES)
        print(f"{date.today()}, {platform.machine()}, {architecture}, {size / 1e6:.0f} MB")
        print(f"interpreter and libraries: {libraries / 1e6:.0f} MB")
        for name in ("expert.safetensors", "expert.pt"):
            given = ("--weights", work / name, "--class-names", work / "names.txt")
            base = ("--base", f"{architecture}:{work / 'base.safetensors'}")
            place = ("--registry", work / name.replace(".", "-"))
            command = ("-m", "condu_cli", "import", "--task", "a", *given, *base, *place)
            found = peak(sys.executable, *command) - libraries
            print(f"{name}: {found / 1e6:.0f} MB more, ratio to the model {found / size:.2f}")


def make(architecture: str, folder: Path) -> int:
    """Write a base model, a checkpoint in two formats and class names; return its bytes."""
    torch.manual_seed(0)
    state = open_clip.create_model(architecture).state_dict()
    state = {name: tensor.clone().contiguous() for name, tensor in state.items()}
    save_file(state, folder / "base.safetensors")
    tuned = {n: t * 1.01 if n != "logit_scale" else t for n, t in state.items()}
    save_file(tuned, folder / "expert.safetensors")
    torch.save({"state_dict": tuned}, folder / "expert.pt")
    (folder / "names.txt").write_text("cat\ndog\n")
    return sum(tensor.numel() * 4 for tensor in state.values())


def peak(*command: object) -> int:
    """Run a command in a process of its own; return its peak memory in bytes."""
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-c", MEASURED, *map(str, command)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    unit = 1 if sys.platform == "darwin" else 1024
    return int(done.stdout.splitlines()[-1]) * unit


if __name__ == "__main__":
    main()
