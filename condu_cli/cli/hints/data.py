"""Hints about pictures, lists and class names."""

import re

from condu_cli.cli.hints.table import Facts, Hint

FORMS = {
    "folders": "Expected DIR/train/CLASS/*.jpg and DIR/test/CLASS/*.jpg, DIR/CLASS/*.jpg, or a CSV "
    "file of paths and labels",
    "list": "List more pictures, each with its label",
    "hugging-face": "Expected an Image column and a ClassLabel column",
}
ADDRESS = re.compile(r"(https?|s3|gs|hf):/")
DOWNLOAD = "Download it first: only files are read"
ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".7z", ".rar")
JSON_LINE = 'Expected one JSON object per line, such as {{"path": "1.jpg", "label": "cat"}}'


def _form(facts: Facts) -> str:
    return FORMS[str(facts.get("form", "folders"))]


def _classes(facts: Facts) -> str:
    if facts.get("same"):
        return "The training set has '{same}', which differs only in case"
    return "Training and test folders must hold the same classes"


def _absent(facts: Facts) -> str:
    fetch = "Pass --download, or" if facts.get("downloadable") else "Pass"
    return f"{fetch} --data DIR with a folder per class. By hand: put {{needs}}"


def _incomplete(facts: Facts) -> str:
    again = ", or remove it and pass --download" if facts.get("downloadable") else ""
    return f"Complete it{again}. By hand: put {{needs}}"


def _column(facts: Facts) -> str:
    if facts.get("column") == "ClassLabel":
        return "Cast the labels first: dataset.class_encode_column('label')"
    return FORMS["hugging-face"]


def _unless_address(check: str) -> Hint:
    """Make a hint about a missing file, which may be an address that was taken for one."""
    return lambda facts: DOWNLOAD if ADDRESS.match(str(facts.get("path"))) else check


def _other_file(facts: Facts) -> str:
    if str(facts.get("path")).lower().endswith(ARCHIVES):
        return "Unpack it, and name its folder: --data DIR"
    return "A list of pictures ends in .csv, .tsv, .jsonl or .ndjson"


HINTS: dict[str, Hint] = {
    # Where a task's pictures are
    "no-data": "Pass --data DIR, or put them in a folder {task} below --data-root or ${variable}",
    "no-data-root-for-public-set": "Pass --data DIR, or name the folder that holds the data sets: "
    "--data-root DIR or {variable}; condu tasks {task!q} says what belongs there",
    "no-data-root": "Pass --data-root DIR, or set {variable}",
    "no-such-data": _unless_address("Check --data"),
    "no-labelled-pictures": "Check --data",
    "no-pictures": _form,
    "no-training-pictures": _form,
    "one-class-only": _form,
    "not-a-data-set": _other_file,
    "test-classes-unknown": _classes,
    "library-missing": "pip install {package!q}",
    "installation-damaged": "Reinstall the package condu",
    "not-embedded": "Embedded: {known}",
    # Public sets
    "public-set-absent": _absent,
    "public-set-incomplete": _incomplete,
    "public-set-wrong": "Replace it with the complete set: {needs}",
    "public-set-damaged": "Unpack the set again",
    "public-set-unreadable": "A file may be corrupt or the wrong one. Needed: {needs}",
    "not-downloadable": "Get it at {url} and put {needs}",
    "download-failed": "Get it at {url} and put {needs}",
    "in-the-way": "Remove it, or complete it: put {needs}",
    # Class names
    "class-names-differ-in-number": "Give one name per folder, in the folders' alphabetical order",
    "class-names-not-distinct": "Give one name per class, in the data set's own order",
    "class-names-ambiguous": 'Map each class to its name: {{"folder": "name in words"}}',
    "class-names-missing": "Map {what} to its name in words",
    "class-names-not-names": 'For instance {{"sealake": "sea or lake"}}',
    "class-names-unreadable": "Check the path",
    "class-named-twice": "Names must differ",
    "split-twice": "Rename one of them, or give a CSV file of paths, labels and splits",
    "split-without-train": "Add a folder or rows for training, or rename it if it is a class",
    "classes-nested": "Name the splits train and test, or give a CSV file of paths and labels",
    "text-odd": "Names and templates are one line of text in UTF-8: rename it",
    "too-few-class-names": "Give one name per class",
    "not-json": "Check the file",
    "template-without-place": "For instance --template 'a photo of a {{}}.'",
    # Lists and saved data sets
    "list-unreadable": "It must be text in UTF-8",
    "list-encoding": "Write it in UTF-8",
    "list-header": "Expected a header such as path,label or path,label,split",
    "list-row-invalid": "Check its quotes",
    "list-value-missing": "Every row needs a path and a label",
    "wrong-number-of-columns": 'A value with a comma in it needs quotes: "a,b.jpg"',
    "json-line-invalid": JSON_LINE,
    "listed-twice": "List every picture once",
    "split-missing": "Give all rows a split, or none of them",
    "unknown-split": "Known: {known}",
    "path-impossible": "Correct the path",
    "column-missing": _column,
    "column-ambiguous": "Rename it: dataset.rename_column('{column}', '{usual}')",
    "data-set-unreadable": "Save it again",
    # How many pictures
    "too-few-shots": "Try 5",
    "limit-below-classes": "Use at least one per class: --limit {classes}",
    "share-below-0": "Give a share such as 0.1",
    # Pictures
    "too-many-unreadable": "Remove or replace them, or skip them: --max-unreadable {unreadable}",
    "class-unreadable": "Replace them, or omit the class",
    "picture-too-large": "Scale the picture down",
    "picture-unreadable": "The file may be corrupt",
    "no-such-file": _unless_address("Check the path"),
    "permission-denied": "Check its permissions",
    "not-a-picture-file": "Name a picture",
    "not-a-picture": "Supported: JPEG, PNG, WebP, TIFF, …",
}
