"""Splitting at random, and recognising a data set."""

from pathlib import Path

import pytest

from condu_cli.data.labelled import Sample, by_hash, fingerprint, split_pictures, split_samples


def files(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    return [root / name for name in names]


@pytest.mark.parametrize("layout", ["obj{:02d}/rgb.png", "{:02d}.png"])
def test_a_split_is_by_a_seed_whatever_the_files_are_called(layout):
    pictures = [Path("/somewhere/cat", layout.format(number)) for number in range(20)]
    tests = [split_pictures({"cat": pictures}, seed)[1]["cat"] for seed in range(5)]
    assert all(len(test) == 4 for test in tests)
    assert len({tuple(test) for test in tests}) > 1
    assert tests[0] != pictures[:4]


@pytest.mark.parametrize("layout", ["obj{:02d}/rgb.png", "{:02d}.png"])
def test_the_order_does_not_depend_on_where_the_pictures_lie(layout):
    names = [layout.format(number) for number in range(20)]
    orders = [
        [str(path.relative_to(root)) for path in by_hash([root / name for name in names], "7:")]
        for root in (Path("/here"), Path("/over/there"), Path("relative"))
    ]
    assert orders[0] == orders[1] == orders[2]


def test_paths_that_share_no_folder_have_an_order_too():
    paths = [Path("a/1.png"), Path("/b/1.png"), Path("/b/2.png")]
    assert set(by_hash(paths, "")) == set(paths)


def test_samples_split_as_their_pictures_do():
    pictures = {name: [Path(f"/x/{name}/{i}.png") for i in range(10)] for name in "ab"}
    samples = [Sample(p, label) for label, name in enumerate("ab") for p in pictures[name]]
    sides = split_samples(samples, ("a", "b"), 3)
    for side, expected in zip(sides, split_pictures(pictures, 3), strict=True):
        assert [s.picture for s in side] == [p for name in "ab" for p in expected[name]]


def test_a_fingerprint_knows_names_sizes_and_classes(tmp_path):
    first = [Sample(p, i) for i, p in enumerate(files(tmp_path / "1", "a/x.png", "b/y.png"))]
    moved = [Sample(p, i) for i, p in enumerate(files(tmp_path / "2", "a/x.png", "b/y.png"))]
    same = fingerprint(first, ("a", "b"))
    assert same == fingerprint(moved, ("a", "b")) == fingerprint(moved[::-1], ("a", "b"))
    assert same != fingerprint(moved, ("b", "a"))
    moved[0].picture.write_text("something longer")
    assert same != fingerprint(moved, ("a", "b"))


def test_a_file_that_is_not_there_has_no_size(tmp_path):
    assert fingerprint([Sample(tmp_path / "gone.png", 0)], ("a",))
