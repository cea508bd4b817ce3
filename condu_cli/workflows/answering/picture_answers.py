"""Answer paths from a command line, including folders, standard input and unreadable files."""

from __future__ import annotations

import io
import os
import re
import tempfile
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

from condu_cli.data.pictures.decoding import Reading, Unreadable
from condu_cli.data.pictures.picture_files import opened
from condu_cli.data.pictures.walking import not_readable, walk
from condu_cli.errors import DataError, exhausted
from condu_cli.texts import decoded
from condu_cli.workflows.progress import ProgressCallback, silent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from condu_cli.data.pictures.picture_files import Picture
    from condu_cli.workflows.answering.answers import Prediction

STANDARD_INPUT = "-"
_CONTROL = re.compile(rb"[\x01-\x08\x0b\x0c\x0e-\x1f]")
"""What a list of names does not have: control characters but NUL, tab and line ends."""


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

    `-` stands for standard input: one picture, or a list of paths, one per line or ended by NUL.

    Raises:
        DataError: the list's encoding cannot be told.

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
    if any(os.path.isfile(path) for path in pictures):
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
        elif os.path.isdir(path):
            found = walk(path)
            if path in found.unreadable:
                errors.append(not_readable(path))
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
    """Read standard input as a picture, or as a list of paths if it is text.

    Names of files are bytes: they are separated by NUL if there is one, else by line feeds.
    """
    listed = None if _is_picture(stdin) else _as_list(stdin)
    if listed is None:
        picture = folder / "standard-input"
        picture.write_bytes(stdin)
        return [(STANDARD_INPUT, picture)]
    parts = listed.split(b"\0") if b"\0" in listed else listed.splitlines()
    names = [os.fsdecode(part) for part in parts if part.strip()]
    return [(name, Path(name)) for name in names]


def _is_picture(content: bytes) -> bool:
    try:
        with opened(io.BytesIO(content)):
            return True
    except Exception as exc:  # on other bytes, decoders raise anything
        if stopped := exhausted(exc):
            raise stopped from exc
        return False


def _as_list(content: bytes) -> bytes | None:
    """Return a list without its byte order mark; None if there is none, or it cannot be a list."""
    if content.startswith((BOM_UTF16_LE, BOM_UTF16_BE)):
        try:
            content = os.fsencode(decoded(content))
        except ValueError:
            return None
    content = content.removeprefix(BOM_UTF8)
    if not content.strip() or _CONTROL.search(content):
        return None
    if b"\n\0" in content or b"\0\n" in content:
        raise DataError(
            "standard input: a list in UTF-16 without a byte order mark", reason="list-encoding"
        )
    return content
