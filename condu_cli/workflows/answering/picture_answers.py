"""From paths on a command line to answers: folders, standard input and unreadable files."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from condu_cli.data.pictures.decoding import Reading, Unreadable
from condu_cli.data.pictures.picture_files import list_pictures
from condu_cli.errors import DataError
from condu_cli.workflows.answering.predictor import PredictOptions, Predictor
from condu_cli.workflows.progress import ProgressCallback, silent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from condu_cli.registry.manifest import Session
    from condu_cli.workflows.answering.answers import Prediction
    from condu_cli.workflows.opening.workspace import Workspace

STANDARD_INPUT = "-"


@dataclass(frozen=True)
class Answered:
    """One input with its prediction; `path` as the user wrote it or as found in a folder."""

    path: str
    prediction: Prediction


def answer_paths(
    workspace: Workspace,
    session: Session,
    options: PredictOptions,
    paths: Sequence[str],
    stdin: bytes = b"",
    on_progress: ProgressCallback = silent,
) -> tuple[list[Answered], list[DataError]]:
    """Predict every readable picture, in order; answer with the errors of the others.

    `-` stands for standard input: one picture, or a list of paths, one a line.
    """
    predictor = Predictor(workspace, session, options)  # unknown tasks fail before any reading
    with tempfile.TemporaryDirectory(prefix="condu-") as folder:
        named, errors = _expand(paths, stdin, Path(folder))
        pictures = [path for _, path in named]
        found = _absent(pictures) or predictor.predict(pictures, on_progress)
        answered: list[Answered] = []
        for (name, path), answer in zip(named, found, strict=True):
            if isinstance(answer, Unreadable):
                errors.append(_under_its_name(answer.error, name, path))
            else:
                answered.append(Answered(name, answer))
    return answered, errors


def _absent(pictures: Sequence[Path]) -> Sequence[Unreadable | Prediction]:
    """What is wrong with each where none is a file: said at once, without loading a model."""
    if any(path.is_file() for path in pictures):
        return []
    answers = [Reading(None, keep=False).one(path) for path in pictures]
    absent = [answer for answer in answers if isinstance(answer, Unreadable)]
    return absent if len(absent) == len(pictures) else []


def _under_its_name(exc: DataError, name: str, path: Path) -> DataError:
    """Standard input was read through a temporary file that the user knows nothing of."""
    if name != STANDARD_INPUT:
        return exc
    facts = {**exc.facts, "path": name}
    return DataError(exc.message.replace(str(path), "standard input"), reason=exc.reason, **facts)


def _expand(
    paths: Sequence[str], stdin: bytes, folder: Path
) -> tuple[list[tuple[str, Path]], list[DataError]]:
    """Resolve the arguments to pictures, each with the name to print it under."""
    named: list[tuple[str, Path]] = []
    errors: list[DataError] = []
    for text in paths:
        path = Path(text)
        if text == STANDARD_INPUT:
            named += _from_stdin(stdin, folder)
        elif path.is_dir():
            found = list_pictures(path)
            if not found:
                errors.append(
                    DataError(
                        f"{path}: no pictures in this folder",
                        reason="folder-without-pictures",
                        path=path,
                    )
                )
            named += [(str(picture), picture) for picture in found]
        else:
            named.append((text, path))
    return named, errors


def _from_stdin(stdin: bytes, folder: Path) -> list[tuple[str, Path]]:
    """A text that is all paths is a list of them; anything else is taken for a picture."""
    try:
        lines = [line for line in stdin.decode("utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError:
        lines = []
    if lines:
        return [(line, Path(line)) for line in lines]
    picture = folder / "standard-input"
    picture.write_bytes(stdin)
    return [(STANDARD_INPUT, picture)]
