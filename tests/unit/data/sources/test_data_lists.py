"""Files of paths and labels: CSV, TSV, JSON Lines."""

import csv
import io
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis_profiles import with_shared_fixtures

from condu_cli.cli.hints.making import hint_of
from condu_cli.data.sources.lists import Row, read_manifest
from condu_cli.data.sources.own_data import read_source, read_source_split
from condu_cli.errors import DataError


def written(folder: Path, content: str | bytes, name: str = "list.csv") -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def listed(path: Path) -> list[tuple[str, str, str | None]]:
    return [(row.path, row.label, row.split) for row in read_manifest(path).rows]


# Reading


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("list.csv", "path,label\na.jpg,cat\nb.jpg,dog\n"),
        ("list.CSV", "Label , FILE\ncat,a.jpg\ndog,b.jpg"),
        ("list.csv", "\ufeffpath,label\r\na.jpg,cat\r\n\r\n,\r\nb.jpg,dog\r\n"),
        ("list.csv", "filename;category\na.jpg;cat\nb.jpg;dog\n"),
        ("list.csv", 'image,class\n"a.jpg","cat"\n" b.jpg ",dog\n'),
        ("list.tsv", "id\tpath\tclass\n1\ta.jpg\tcat\n2\tb.jpg\tdog\n"),
        ("list.jsonl", '{"path": "a.jpg", "label": "cat"}\n\n{"file": "b.jpg", "class": "dog"}'),
        ("list.ndjson", '\ufeff{"Image": "a.jpg", "category": "cat", "x": [1]}\r\n'
                        '{"filepath": "b.jpg", "label": "dog", "split": null}\r\n'),
    ],
)  # fmt: skip
def test_the_same_list_in_many_spellings(tmp_path, name, content):
    path = written(tmp_path, content, name)
    assert listed(path) == [("a.jpg", "cat", None), ("b.jpg", "dog", None)]


CELLS = st.text(
    st.characters(
        codec="utf-8", exclude_characters="\0\r\n", exclude_categories=["Cs", "Zs", "Cc"]
    ),
    min_size=1,
    max_size=12,
).filter(lambda text: text == text.strip() and text != "\ufeff")
ROWS = st.lists(
    st.tuples(CELLS, CELLS, st.sampled_from(["train", "test"])),
    min_size=1,
    unique_by=lambda r: r[0],
)


@with_shared_fixtures()
@given(rows=ROWS, delimiter=st.sampled_from([",", "\t"]), end=st.sampled_from(["\n", "\r\n"]))
def test_what_a_csv_writer_wrote_is_read_back(tmp_path, rows, delimiter, end):
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=delimiter, lineterminator=end)
    writer.writerows([("path", "label", "split"), *rows])
    name = "list.tsv" if delimiter == "\t" else "list.csv"
    assert listed(written(tmp_path, text.getvalue(), name)) == rows


@with_shared_fixtures()
@given(rows=ROWS, ascii_only=st.booleans())
def test_what_a_json_writer_wrote_is_read_back(tmp_path, rows, ascii_only):
    lines = [
        json.dumps({"path": p, "label": label, "split": s}, ensure_ascii=ascii_only)
        for p, label, s in rows
    ]
    assert listed(written(tmp_path, "\n".join(lines), "list.jsonl")) == rows


@with_shared_fixtures()
@given(content=st.binary(max_size=200), suffix=st.sampled_from([".csv", ".tsv", ".jsonl"]))
def test_any_bytes_are_a_list_or_one_clear_error(tmp_path, content, suffix):
    path = written(tmp_path, content, f"list{suffix}")
    found: object = None
    try:
        found = read_manifest(path).rows
    except DataError as error:
        found = hint_of(error) and str(path) in error.message
    assert found


def test_a_row_knows_its_line_even_after_values_of_two_lines(tmp_path):
    path = written(tmp_path, 'path,label,note\na.jpg,cat,"two\nlines"\n\nb.jpg,dog,\n')
    assert [row.line for row in read_manifest(path).rows] == [3, 5]


# Faults of a list


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("list.csv", "", r"list\.csv: lists no pictures"),
        ("list.csv", "path,label\n", r"list\.csv: lists no pictures"),
        ("list.csv", "a.jpg,cat\nb.jpg,dog\n", "the header has no column 'path'"),
        ("list.csv", "path,kind\na.jpg,cat\n", "the header has no column 'label'"),
        ("list.csv", "path,label\na.jpg\n", r"line 2: 1 columns, but the header has 2"),
        ("list.csv", "path,label\na.jpg,cat\na,b.jpg,cat\n", r"line 3: 3 columns"),
        ("list.csv", "path,label\na.jpg,\n", "line 2: no label"),
        ("list.csv", "path,label\n ,cat\n", "line 2: no path"),
        ("list.csv", 'path,label\n"a.jpg,cat\n', "not a valid row"),
        ("list.csv", "path,label,split\na.jpg,cat,tset\n", "line 2: unknown split 'tset'"),
        ("list.csv", "path,label,split\na.jpg,cat,\n", "line 2: unknown split ''"),
        ("list.csv", b"path,label\ncaf\xe9.jpg,cat\n", "cannot be read"),
        ("list.csv", "path,label\na.jpg,cat\na.jpg,dog\n", "line 3: a.jpg is already in line 2"),
        ("list.jsonl", "path,label\n", "line 1: not valid JSON"),
        ("list.jsonl", '{"path": "a.jpg", "label": "cat"}\n[1]\n', "line 2: not a JSON object"),
        ("list.jsonl", '{"path": "a.jpg"}\n', "line 1: no label"),
        ("list.jsonl", '{"path": 7, "label": "cat"}\n', "line 1: the path is not text"),
        ("list.jsonl", '{"path": "a.jpg", "label": true}\n', "line 1: the label is not text"),
        ("list.jsonl", '{"path": "a.jpg", "label": 1.5}\n', "line 1: the label is not text"),
    ],
)
def test_a_list_that_makes_no_sense_is_refused_by_file_and_line(tmp_path, name, content, message):
    with pytest.raises(DataError, match=message) as caught:
        read_manifest(written(tmp_path, content, name))
    assert name in caught.value.message


def test_a_missing_header_is_answered_with_the_one_expected(tmp_path):
    with pytest.raises(DataError) as caught:
        read_manifest(written(tmp_path, "a.jpg,cat\n"))
    assert "path,label,split" in hint_of(caught.value)


def test_a_picture_listed_twice_alike_counts_once_and_is_reported(tmp_path):
    manifest = read_manifest(written(tmp_path, "path,label\na.jpg,cat\na.jpg,cat\n"))
    assert manifest.rows == [Row(2, "a.jpg", "cat", None)]
    assert len(manifest.ignored) == 1
    assert "line 3" in manifest.ignored[0]


def test_a_list_by_a_relative_path_recognises_absolute_rows(tmp_path, monkeypatch):
    written(tmp_path, f"path,label\na.jpg,cat\n{tmp_path / 'a.jpg'},dog\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="is already in line 2"):
        read_manifest(Path("list.csv"))


# As a data set


def table(folder: Path, rows: list[str], header: str = "path,label") -> Path:
    return written(folder, "\n".join([header, *rows]))


def test_paths_are_relative_to_the_list_or_absolute(tmp_path):
    path = table(tmp_path, ["in/a.jpg,cat", "/abs/b.jpg,dog", "c.jpg,cat", "d.jpg,dog"])
    data = read_source(path)
    found = {sample.picture for sample in (*data.train, *data.test)}
    assert {tmp_path / "in/a.jpg", Path("/abs/b.jpg")} <= found


def test_paths_written_on_windows_are_found_where_slashes_help(tmp_path):
    (tmp_path / "red").mkdir()
    (tmp_path / "red" / "0.png").touch()
    (tmp_path / "odd\\name.png").touch()
    long = "a\\" + "b" * 300
    rows = f"path,label\nred\\0.png,red\nodd\\name.png,odd\nred\\gone.png,red\n{long},red\n"
    found = [path for path, _, _ in listed(written(tmp_path, rows))]
    assert found == ["red/0.png", "odd\\name.png", "red\\gone.png", long]


@pytest.mark.parametrize("name", ["pictures.zip", "pictures.tar.gz", "pictures.7z"])
def test_an_archive_is_to_be_unpacked(tmp_path, name):
    with pytest.raises(DataError, match="is neither a folder nor a list") as refused:
        read_source(written(tmp_path, b"PK", name))
    assert "Unpack it" in hint_of(refused.value)


def test_an_address_is_to_be_downloaded(tmp_path):
    with pytest.raises(DataError, match="no such file or folder") as refused:
        read_source(Path("https://example.org/pictures"))
    assert "Download it first" in hint_of(refused.value)


def test_without_a_split_column_it_is_80_to_20(tmp_path):
    data = read_source(table(tmp_path, [f"{i}.jpg,{'ab'[i % 2]}" for i in range(20)]))
    assert data.split == "random 80/20, seed 42"
    assert (len(data.train), len(data.test)) == (16, 4)


def test_the_split_is_that_of_a_folder_with_the_same_files(tmp_path):
    for name in "ab":
        (tmp_path / "tree" / name).mkdir(parents=True)
        for i in range(10):
            (tmp_path / "tree" / name / f"{i}.jpg").touch()
    rows = [f"tree/{name}/{i}.jpg,{name}" for name in "ab" for i in range(10)]
    tree, listing = read_source(tmp_path / "tree"), read_source(table(tmp_path, rows))
    assert (listing.train, listing.test) == (tree.train, tree.test)


@pytest.mark.parametrize("test", ["test", "VAL", "valid", "validation"])
def test_a_split_column_decides(tmp_path, test):
    rows = ["a.jpg,cat,train", "b.jpg,dog,Train", f"c.jpg,dog,{test}"]
    data = read_source(table(tmp_path, rows, "path,label,split"))
    assert (data.split, len(data.train), len(data.test)) == ("as listed", 2, 1)
    assert data.test[0].label == 1


def test_of_two_test_splits_one_is_used_and_the_other_counted(tmp_path):
    rows = ["a.jpg,cat,train", "b.jpg,dog,train", "c.jpg,dog,val", "d.jpg,dog,test"]
    data = read_source(table(tmp_path, rows, "path,label,split"))
    assert [sample.picture.name for sample in data.test] == ["d.jpg"]
    assert data.ignored == 1
    assert "split 'validation'" in data.ignored_names[0]


def test_numbers_are_ordered_by_value_so_that_a_list_of_names_fits(tmp_path):
    rows = [f"{i}{j}.jpg,{i}" for i in range(12) for j in range(2)]
    (tmp_path / "classes.json").write_text(json.dumps([f"class {i}" for i in range(12)]))
    data = read_source(table(tmp_path, rows))
    assert data.folders == tuple(str(i) for i in range(12))
    assert data.class_names[10] == "class 10"


def test_labels_are_words_with_spaces_for_underscores(tmp_path):
    data = read_source(table(tmp_path, ["a.jpg,big_dog", "b.jpg,cat"]))
    assert data.class_names == ("big dog", "cat")


def test_one_label_is_not_enough(tmp_path):
    with pytest.raises(DataError, match=r"only one class \(cat\)"):
        read_source(table(tmp_path, ["a.jpg,cat", "b.jpg,cat"]))


def test_a_split_is_read_to_measure_on(tmp_path):
    rows = ["a.jpg,cat,train", "b.jpg,dog,train", "c.jpg,dog,val"]
    path = table(tmp_path, rows, "path,label,split")
    folders, names, samples, _ = read_source_split(path, "test")
    assert (folders, names, len(samples)) == (("dog",), ("dog",), 1)
    assert len(read_source_split(path, "train")[2]) == 2


def test_without_splits_all_pictures_are_read_to_measure_on(tmp_path):
    assert len(read_source_split(table(tmp_path, ["a.jpg,cat", "b.jpg,dog"]), "test")[2]) == 2


@pytest.mark.parametrize("content", [
    '{"path": "a.jpg", "label": "x", "split": "train"}\n{"path": "b.jpg", "label": "y"}',
    '{"path": "a.jpg", "label": "x"}\n{"path": "b.jpg", "label": "y", "split": "test"}',
])  # fmt: skip
def test_either_every_row_has_a_split_or_none(tmp_path, content):
    with pytest.raises(DataError, match=r"list.jsonl, line \d: no split, but line \d has one"):
        read_manifest(written(tmp_path, content, "list.jsonl"))


@pytest.mark.parametrize("again", ["./a.jpg", "b/../a.jpg", "{folder}/a.jpg", ".//a.jpg"])
def test_one_picture_by_two_paths_is_one_picture(tmp_path, again):
    again = again.format(folder=tmp_path)
    with pytest.raises(DataError, match=r"line 3: .* is already in line 2"):
        read_manifest(written(tmp_path, f"path,label\na.jpg,cat\n{again},dog\n"))
    twice = read_manifest(written(tmp_path, f"path,label\na.jpg,cat\n{again},cat\n"))
    assert (len(twice.rows), len(twice.ignored)) == (1, 1)


@pytest.mark.parametrize("path", ["a\\u0000.jpg", "a\\ud83d.jpg"])
def test_a_path_that_no_file_can_have_is_refused_with_its_line(tmp_path, path):
    content = f'{{"path": "{path}", "label": "cat"}}'
    with pytest.raises(DataError, match="line 1: not a valid path"):
        read_manifest(written(tmp_path, content, "list.jsonl"))
