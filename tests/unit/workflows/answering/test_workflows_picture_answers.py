"""From paths to answers: files, folders, standard input, unreadable pictures."""

import os

import pytest

from condu_cli.errors import DataError, NotFoundError
from condu_cli.workflows.answering.picture_answers import answer_paths
from condu_cli.workflows.answering.predictor import PredictOptions, Predictor


def answer(workspace, *paths, stdin=b"", **options):
    predictor = Predictor(workspace, workspace.head(), PredictOptions(**options))
    return answer_paths(predictor, list(map(str, paths)), stdin)[:2]


def labels(answered) -> list[tuple[str, str]]:
    return [(item.path, item.prediction.answers[0].label) for item in answered]


@pytest.fixture
def blue(warm):
    return warm / "blue" / "00.png"


@pytest.fixture
def red(warm):
    return warm / "red" / "00.png"


def test_pictures_are_answered_in_the_order_given(workspace, blue, red):
    answered, errors = answer(workspace, red, blue, red)
    assert labels(answered) == [(str(red), "red"), (str(blue), "blue"), (str(red), "red")]
    assert errors == []


def test_a_folder_means_all_its_pictures_sorted(workspace, warm):
    answered, errors = answer(workspace, warm, task="warm")
    assert [item.path for item in answered] == [str(p) for p in sorted(warm.rglob("*.png"))]
    assert errors == []


def test_unreadable_inputs_are_named_and_the_others_answered(workspace, blue, red, tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    answered, errors = answer(workspace, blue, tmp_path / "text.png", tmp_path / "gone.png", red)
    assert labels(answered) == [(str(blue), "blue"), (str(red), "red")]
    assert [error.message.rsplit(": ", 1)[1] for error in errors] == [
        "not a picture",
        "no such file",
    ]


def test_an_empty_folder_is_an_error_beside_the_answers(workspace, blue, tmp_path):
    (tmp_path / "empty").mkdir()
    answered, errors = answer(workspace, tmp_path / "empty", blue)
    assert len(answered) == 1
    assert "no pictures in this folder" in errors[0].message


def test_where_nothing_can_be_read_no_model_is_asked(workspace, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "condu_cli.workflows.opening.workspace.load_recorded_base",
        lambda *_: pytest.fail("loaded"),
    )
    answered, errors = answer(workspace, tmp_path / "gone.png")
    assert answered == []
    assert len(errors) == 1


def test_a_dash_takes_a_picture_from_standard_input(workspace, red):
    answered, _ = answer(workspace, "-", stdin=red.read_bytes())
    assert labels(answered) == [("-", "red")]


def test_a_dash_takes_a_list_of_paths_from_standard_input(workspace, blue, red):
    answered, _ = answer(workspace, "-", stdin=f"{red}\n\n{blue}\n".encode())
    assert labels(answered) == [(str(red), "red"), (str(blue), "blue")]


def test_a_dash_may_be_between_other_paths(workspace, blue, red):
    answered, _ = answer(workspace, blue, "-", blue, stdin=red.read_bytes())
    assert labels(answered) == [(str(blue), "blue"), ("-", "red"), (str(blue), "blue")]


@pytest.mark.parametrize("stdin", [b"", b"\xff\xd8\x00\x10not a picture"])
def test_standard_input_that_is_not_a_picture_is_an_error(workspace, stdin):
    answered, errors = answer(workspace, "-", stdin=stdin)
    assert answered == []
    assert errors[0].message == "standard input: not a picture"
    assert errors[0].facts["path"] == "-"  # not the temporary file


def test_an_unknown_task_comes_before_unreadable_files(workspace, tmp_path):
    with pytest.raises(NotFoundError):
        answer(workspace, tmp_path / "gone.png", task="nothing")


# Lists on standard input


@pytest.fixture
def odd(red, tmp_path):
    """A picture whose name is bytes, with a line end among them."""
    path = tmp_path / os.fsdecode(b"caf\xe9\n1.png")
    path.write_bytes(red.read_bytes())
    return path


def names_of(workspace, stdin: bytes) -> list[str]:
    answered, errors = answer(workspace, "-", stdin=stdin)
    assert errors == []
    return [item.path for item in answered]


@pytest.mark.parametrize(
    "encoded",
    [
        lambda names: names.encode("utf-8-sig"),
        lambda names: names.encode("utf-16"),
        lambda names: names.replace("\n", "\r\n").encode(),
        lambda names: names.replace("\n", "\0").encode(),
    ],
)
def test_lists_may_be_as_shells_write_them(workspace, blue, red, encoded):
    assert names_of(workspace, encoded(f"{blue}\n{red}\n")) == [str(blue), str(red)]


def test_names_are_bytes_and_may_hold_line_ends_between_nuls(workspace, odd, red):
    stdin = b"\0".join(map(os.fsencode, (odd, red)))
    assert names_of(workspace, stdin) == [str(odd), str(red)]


def test_one_bad_line_is_one_bad_line(workspace, blue):
    lines = [b"x" * 5000, os.fsencode(blue), b"caf\xe9.png", b"", b"nothing.png"]
    answered, errors = answer(workspace, "-", stdin=b"\n".join(lines))
    assert [item.path for item in answered] == [str(blue)]
    assert len(errors) == 3


def test_a_list_without_its_byte_order_mark_is_refused(workspace, blue):
    with pytest.raises(DataError, match="UTF-16 without a byte order mark"):
        answer(workspace, "-", stdin=f"{blue}\n".encode("utf-16-le"))


def test_a_name_that_is_too_long_is_an_error(workspace):
    answered, (error,) = answer(workspace, "x" * 5000)
    assert answered == []
    assert "x" * 5000 in error.message
