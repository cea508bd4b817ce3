"""Answer paths from a command line, including folders, standard input and unreadable files."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

from condu_cli.data.pictures.decoding import Reading, Unreadable
from condu_cli.data.pictures.walking import walk
from condu_cli.errors import DataError
from condu_cli.workflows.progress import ProgressCallback, silent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from condu_cli.data.pictures.picture_files import Picture
    from condu_cli.workflows.answering.answers import Prediction

STANDARD_INPUT = "-"


@dataclass(frozen=True)
class Answered:
    """One input with its prediction; `path` as the user wrote it or as found in a folder."""

    path: str
    prediction: Prediction


class Answers(NamedTuple):
    """What was answered, the errors of other inputs, and what was not looked at in folders."""

    answered: list[Answered]
    errors: list[DataError]
    omitted: list[str]


class PicturePredictor(Protocol):
    """What can answer for pictures."""

    def predict(
        self, pictures: Sequence[Picture], on_progress: ProgressCallback = silent
    ) -> list[Prediction | Unreadable]:
        """Predict every readable picture, in order."""


def answer_paths(
    predictor: PicturePredictor,
    paths: Sequence[str],
    stdin: bytes = b"",
    on_progress: ProgressCallback = silent,
) -> Answers:
    """Predict every readable picture, in order.

    `-` stands for standard input: one picture, or a list of paths, one per line.
    """
    with tempfile.TemporaryDirectory(prefix="condu-") as folder:
        named, errors, omitted = _expand(paths, stdin, Path(folder))
        pictures = [path for _, path in named]
        found = _absent(pictures) or predictor.predict(pictures, on_progress)
        answered: list[Answered] = []
        for (name, path), answer in zip(named, found, strict=True):
            if isinstance(answer, Unreadable):
                errors.append(_under_its_name(answer.error, name, path))
            else:
                answered.append(Answered(name, answer))
    return Answers(answered, errors, omitted)


def _absent(pictures: Sequence[Path]) -> Sequence[Unreadable | Prediction]:
    """Return what is wrong if no path is a file: no model needs to be loaded for that."""
    if any(path.is_file() for path in pictures):
        return []
    answers = [Reading(None, keep=False).one(path) for path in pictures]
    absent = [answer for answer in answers if isinstance(answer, Unreadable)]
    return absent if len(absent) == len(pictures) else []


def _under_its_name(exc: DataError, name: str, path: Path) -> DataError:
    """Name standard input instead of the temporary file that it was read through."""
    if name != STANDARD_INPUT:
        return exc
    facts = {**exc.facts, "path": name}
    return DataError(exc.message.replace(str(path), "standard input"), reason=exc.reason, **facts)


def _expand(
    paths: Sequence[str], stdin: bytes, folder: Path
) -> tuple[list[tuple[str, Path]], list[DataError], list[str]]:
    """Resolve the arguments to pictures, each with the name to print; say what was left out."""
    named: list[tuple[str, Path]] = []
    errors: list[DataError] = []
    omitted: list[str] = []
    for text in paths:
        path = Path(text)
        if text == STANDARD_INPUT:
            named += _from_stdin(stdin, folder)
        elif path.is_dir():
            found = walk(path)
            if path in found.unreadable:
                errors.append(
                    DataError(
                        f"{path}: cannot be read (permission denied)",
                        reason="permission-denied",
                        path=path,
                    )
                )
                continue
            omitted += found.omissions()
            if not found.pictures:
                errors.append(
                    DataError(
                        f"{path}: no pictures in this folder",
                        reason="folder-without-pictures",
                        path=path,
                    )
                )
            named += [(str(picture), picture) for picture in found.pictures]
        else:
            named.append((text, path))
    return named, errors, omitted


def _from_stdin(stdin: bytes, folder: Path) -> list[tuple[str, Path]]:
    """Read UTF-8 text as a list of paths, and anything else as a picture."""
    try:
        lines = [line for line in stdin.decode("utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError:
        lines = []
    if lines:
        return [(line, Path(line)) for line in lines]
    picture = folder / "standard-input"
    picture.write_bytes(stdin)
    return [(STANDARD_INPUT, picture)]
