"""Retired phrases, each with a plain way to say it.

These are habits of this project, not rules of English. If a phrase turns up again, say it plainly
instead of adding an exception here.
"""

from __future__ import annotations

import re
from bisect import bisect
from itertools import accumulate
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RETIRED = {
    r"numbers that are none|\bis no number|no number any ?more": "became NaN, is not finite",
    r"\bnot there yet\b": "does not exist yet",
    r"\b[Ss]o many [^.]*\b(are|is|at most)\b": "at most N, up to N",
    r"\b[Nn]obody\b(?!-)": "no longer needed, unused, no one",
    r"\b[Ss]omebody\b|\banybody\b": "someone, another process, the user",
    r"\bcannot be had\b": "cannot be loaded, is not available",
    r"(?<![-.\w])[Dd]amaged?\b(?![_(])": "corrupt",
    r"\b(go|goes|going|went|gone) on with\b": "continue, resume",
    r"(?<![-.\w`])anew\b(?! ?[:=])": "again, start over",
    r"\bany ?more\b": "no longer",
    r"(?<![Tt]here )\b(is|are|was|were) no (?!longer\b|more\b|such\b|different\b)": "is not a",
    r"\bat hand\b": "available",
    r"\bknown again\b": "recognised",
    r"\bwrit(es|e|ten) (itself|it|them|themselves) ?down\b|\bwritten down\b": "saved, recorded",
    r"\bwhat became of\b|\bis come to\b|\bcame to\b": "the history of, ended with",
    r"\b(lie|lies|lay) (on|in|at|there|below|beside|under|where|elsewhere)\b": "is, are stored",
    r"\btakes? (it|this) back\b": "undoes it",
    r"\bof one's own\b": "your own",
    r"\btaken off\b": "stripped, removed",
    r"\bis it that\b|\bhinders\b": "plain word order",
    r"\b[Bb]ad numbers\b": "NaN or infinity",
    r"\b[Ee]verybody\b": "every process, shared",
    r"\b(that|which) (is|are) none\b": "is not one, is invalid",
    r"\b(go|goes|going) round in a circle\b": "form a cycle",
    r"\b(those|ones|codecs|names) that there are\b|\bthat there (is|are) not\b": "known, unknown",
    r"\bwhere there (is|are) (none|no)\b": "if there is none, without",
    r"\b(comes|came|gives?|gave|had) back\b": "is restored, returns",
    r"\bthat is said\b|\bis said\b(?! to\b)": "is reported",
    r"\banswers? with (?!its? own\b)": "returns",
    r"\bkeeps no state\b": "is stateless",
    r"\btaken? along\b|\bwhat it is of\b|\bwhat is not there\b": "copied too, its kind, missing",
    r"\bmade on the spot\b|\bwins? over\b": "created when needed, takes precedence over",
}
SEARCHED = (
    *("condu_cli/**/*.py", "condu_cli/**/*.json", "migrations/**/*.py", "benchmarks/*.py"),
    *("tests/**/*.py", "docs/*", "*.md"),
)
FILES = sorted(
    {path for glob in SEARCHED for path in ROOT.glob(glob) if path.is_file()} - {Path(__file__)}
)

_AROUND = re.compile(r'^\s*(#\s*|f?"(?!"))?|\s*"?\s*$')
"""What surrounds the words of a line: indentation, a comment sign, quotes."""


def occurrences(pattern: str, text: str) -> list[int]:
    """Return the lines on which a phrase begins; it may continue on the next line or literal."""
    lines = [_AROUND.sub("", line) for line in text.splitlines()]
    starts = list(accumulate((len(line) + 1 for line in lines), initial=0))
    return [bisect(starts, m.start()) for m in re.finditer(pattern, " ".join(lines))]


@pytest.mark.parametrize("pattern", RETIRED)
def test_a_retired_phrase_stays_retired(pattern: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in FILES
        for line in occurrences(pattern, path.read_text(encoding="utf-8"))
    ]
    assert found == [], f"say it plainly: {RETIRED[pattern]}"


def test_a_phrase_is_found_across_the_end_of_a_line() -> None:
    text = 'A registry\nnot there\n  # yet, and\n f"that is not there "\n  f"yet, not there yet"\n'
    assert occurrences(r"\bnot there yet\b", text) == [2, 4, 5]


def test_files_are_searched() -> None:
    names = {str(path.relative_to(ROOT)) for path in FILES}
    assert {"README.md", "docs/cli.md", "condu_cli/main.py", "CONTRIBUTING.md"} <= names
