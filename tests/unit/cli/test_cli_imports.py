"""Help is fast because it imports nothing heavy."""

import subprocess
import sys

import pytest

HEAVY = ("torch", "numpy", "sqlalchemy", "alembic", "open_clip", "transformers", "peft")
PROBE = f"""
import sys
from condu_cli.main import main
try:
    main(sys.argv[1:])
except SystemExit as left:
    assert left.code == 0, left.code
loaded = {{name.partition(".")[0] for name in sys.modules}}
print("LOADED:", *sorted(loaded & set({HEAVY!r})))
"""


@pytest.mark.parametrize("args", ["--help", "--version", "learn --help", "predict -h", "bases"])
def test_these_import_nothing_heavy(args):
    done = subprocess.run(
        [sys.executable, "-c", PROBE, *args.split()], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "LOADED:"
