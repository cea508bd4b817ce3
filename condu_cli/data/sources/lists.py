"""A data set as a file of paths and labels: CSV, TSV or JSON Lines.

    path,label,split
    photos/1.jpg,cat,train

One row per picture. Paths are relative to the file's folder, or absolute. Labels are words or
numbers. The split is optional: without it, the list is split 80/20 by a seed, like folders.
"""

from __future__ import annotations

import csv
import io
import json
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from condu_cli.data.labelled import Found
from condu_cli.data.split_names import (
    EXAMPLES,
    TEST,
    TRAIN,
    VALIDATION,
    split_of,
    split_without_train,
)
from condu_cli.errors import DataError
from condu_cli.texts import decoded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

PATH_COLUMNS = ("path", "file", "filename", "file_name", "image", "filepath")
LABEL_COLUMNS = ("label", "class", "category")
SPLIT_COLUMNS = ("split", "set", "subset")


@dataclass(frozen=True)
class Row:
    """One row: its line number, the path as written, the label, and which split if given."""

    line: int
    path: str
    label: str
    split: str | None


@dataclass
class Manifest:
    """The pictures that a list names, by split and class, classes in the order of labels."""

    file: Path
    rows: list[Row]
    ignored: list[str] = field(default_factory=list)

    def pictures(self, splits: Sequence[str] | None) -> dict[str, list[Path]]:
        """Return the pictures by class in these splits; None: in all rows."""
        rows = [row for row in self.rows if splits is None or row.split in splits]
        labels = sorted({row.label for row in rows}, key=_label_order(rows))
        by_class: dict[str, list[Path]] = {label: [] for label in labels}
        for row in rows:
            by_class[row.label].append(self.file.parent / row.path)
        return by_class

    def test_name(self) -> str | None:
        """Return which split tests, None if there is none."""
        there = {row.split for row in self.rows}
        return next((name for name in (TEST, VALIDATION) if name in there), None)


def is_manifest(path: Path) -> bool:
    """Return whether a file has the suffix of a list."""
    return path.suffix.lower() in _READERS


def find_in_manifest(file: Path) -> Found:
    """Find the pictures that a list names, without checking that they exist.

    Raises:
        DataError: the file cannot be read (the line is named), or it lists no pictures.

    """
    manifest = read_manifest(file)
    test = manifest.test_name()
    train_there = any(row.split == TRAIN for row in manifest.rows)
    if test is not None and not train_there:
        raise split_without_train(file, test)
    has_splits = train_there and test is not None
    unused = [
        f"{file}, line {row.line}: split '{row.split}'"
        for row in manifest.rows
        if row.split not in (TRAIN, test)
    ]
    return Found(
        source=file,
        beside=file.parent,
        train=manifest.pictures((TRAIN,) if train_there else None),
        test=manifest.pictures((test or "",)) if has_splits else None,
        form="list",
        split="as listed",
        kind="labels",
        ignored=(*manifest.ignored, *(unused if has_splits else ())),
    )


def split_in_manifest(file: Path, split: str) -> dict[str, list[Path]]:
    """Return the pictures of one split by class, or all of them if no row has that split."""
    manifest = read_manifest(file)
    test = manifest.test_name()
    names = (test if split == TEST and test else split,)
    return manifest.pictures(names) or manifest.pictures(None)


def read_manifest(file: Path) -> Manifest:
    """Read all rows of a list, each picture once.

    Raises:
        DataError: the file cannot be read or lists nothing, a row lacks its picture or label, only
            some rows have a split, or a picture is listed with two labels or in two splits; the
            message names file and line.

    """
    try:
        text = decoded(file.read_bytes())
    except (OSError, ValueError) as exc:
        raise DataError(
            f"{file}: cannot be read ({exc})", reason="list-unreadable", path=file
        ) from exc
    manifest = Manifest(file, [])
    first: dict[str, Row] = {}
    for row in _READERS[file.suffix.lower()](file, text):
        before = first.setdefault(os.path.abspath(file.parent / row.path), row)
        if before is row:
            manifest.rows.append(row)
        elif (before.label, before.split) == (row.label, row.split):
            manifest.ignored.append(f"{file}, line {row.line}: duplicate of {row.path}")
        else:
            raise DataError(
                f"{file}, line {row.line}: {row.path} is already in line {before.line}, "
                "with another label or split",
                reason="listed-twice",
                path=file,
                line=row.line,
            )
    if not manifest.rows:
        raise DataError(f"{file}: lists no pictures", reason="list-header", path=file)
    _check_splits(manifest)
    return manifest


def _check_splits(manifest: Manifest) -> None:
    """Refuse a list in which only some rows have a split."""
    without = next((row for row in manifest.rows if row.split is None), None)
    named = next((row for row in manifest.rows if row.split is not None), None)
    if without is not None and named is not None:
        raise DataError(
            f"{manifest.file}, line {without.line}: no split, but line {named.line} has one",
            reason="split-missing",
            path=manifest.file,
            line=without.line,
        )


def _rows_of_table(file: Path, text: str) -> Iterator[Row]:
    header: list[str] | None = None
    columns: dict[str, int] = {}
    for line, fields in _fields(file, text):
        if not any(value.strip() for value in fields):
            continue
        if header is None:
            header = [name.strip().casefold() for name in fields]
            columns = _columns(file, header)
            continue
        if len(fields) != len(header):
            raise DataError(
                f"{file}, line {line}: {len(fields)} columns, but the header has {len(header)}",
                reason="wrong-number-of-columns",
                path=file,
                line=line,
            )
        yield _row(file, line, {role: fields[place] for role, place in columns.items()})


def _fields(file: Path, text: str) -> Iterator[tuple[int, list[str]]]:
    """Yield line numbers and values; Excel writes semicolons in locales with decimal commas."""
    head = next((line for line in text.splitlines() if line.strip()), "")
    delimiter = "\t" if file.suffix.lower() == ".tsv" else ","
    if delimiter == "," and "," not in head and ";" in head:
        delimiter = ";"
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        for fields in reader:
            yield reader.line_num, fields
    except csv.Error as exc:
        raise DataError(
            f"{file}, line {reader.line_num}: not a valid row ({exc})",
            reason="list-row-invalid",
            path=file,
            line=reader.line_num,
        ) from exc


def _columns(file: Path, header: Sequence[str]) -> dict[str, int]:
    columns: dict[str, int] = {}
    for role, names in _ROLES.items():
        found = next((name for name in names if name in header), None)
        if found is not None:
            columns[role] = header.index(found)
        elif role != "split":
            raise DataError(
                f"{file}: the header has no column '{role}'",
                reason="list-header",
                path=file,
                column=role,
            )
    return columns


def _rows_of_json_lines(file: Path, text: str) -> Iterator[Row]:
    # Split at line feeds only: JSON strings may contain other line separators.
    for line, content in enumerate(text.split("\n"), start=1):
        if not content.strip():
            continue
        try:
            values = json.loads(content)
        except (json.JSONDecodeError, RecursionError) as exc:
            raise DataError(
                f"{file}, line {line}: not valid JSON ({exc})",
                reason="json-line-invalid",
                path=file,
                line=line,
            ) from exc
        if not isinstance(values, dict):
            raise DataError(
                f"{file}, line {line}: not a JSON object",
                reason="json-line-invalid",
                path=file,
                line=line,
            )
        yield _row(file, line, _values(file, line, values))


def _values(file: Path, line: int, values: Mapping[str, Any]) -> dict[str, str]:
    by_name = {name.strip().casefold(): value for name, value in values.items()}
    texts: dict[str, str] = {}
    for role, names in _ROLES.items():
        value = next((by_name[name] for name in names if by_name.get(name) is not None), None)
        if value is None:
            continue
        number = role == "label" and isinstance(value, int) and not isinstance(value, bool)
        if not isinstance(value, str) and not number:
            raise DataError(
                f"{file}, line {line}: the {role} is not text",
                reason="json-line-invalid",
                path=file,
                line=line,
            )
        texts[role] = str(value)
    return texts


def _row(file: Path, line: int, values: Mapping[str, str]) -> Row:
    texts = {role: value.strip() for role, value in values.items()}
    for role in ("path", "label"):
        if not texts.get(role):
            raise DataError(
                f"{file}, line {line}: no {role}",
                reason="list-value-missing",
                path=file,
                line=line,
                column=role,
            )
    if not _can_be_a_path(texts["path"]):
        raise DataError(
            f"{file}, line {line}: not a valid path",
            reason="path-impossible",
            path=file,
            line=line,
        )
    split = split_of(texts["split"]) if "split" in texts else None
    if split is None and "split" in texts:
        raise DataError(
            f"{file}, line {line}: unknown split '{texts['split']}'",
            reason="unknown-split",
            path=file,
            line=line,
            known=list(EXAMPLES),
        )
    return Row(line, _local(file, texts["path"]), texts["label"], split)


def _local(file: Path, path: str) -> str:
    """Return a picture's path; one that was written on Windows may be there with slashes."""
    slashed = path.replace("\\", "/")
    if slashed == path or os.path.exists(file.parent / path):
        return path
    return slashed if os.path.exists(file.parent / slashed) else path


def _can_be_a_path(text: str) -> bool:
    """Return whether the system accepts the text as a path."""
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can encode
        return False


def _label_order(rows: Sequence[Row]) -> Callable[[str], Any]:
    """Sort numeric labels by value, to match a list of class names, and words alphabetically."""
    numbers = all(row.label.isascii() and row.label.isdigit() for row in rows)
    return (lambda label: (int(label), label)) if numbers else (lambda label: label)


_ROLES = {"path": PATH_COLUMNS, "label": LABEL_COLUMNS, "split": SPLIT_COLUMNS}
_READERS: dict[str, Callable[[Path, str], Iterator[Row]]] = {
    ".csv": _rows_of_table,
    ".tsv": _rows_of_table,
    ".jsonl": _rows_of_json_lines,
    ".ndjson": _rows_of_json_lines,
}
