"""From paths to answers: files, folders, standard input, unreadable pictures."""

import pytest

from condu_cli.errors import NotFoundError
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


@pytest.mark.parametrize("stdin", [b"", b"\xff\xfe\x00not a picture"])
def test_standard_input_that_is_not_a_picture_is_an_error(workspace, stdin):
    answered, errors = answer(workspace, "-", stdin=stdin)
    assert answered == []
    assert errors[0].message == "standard input: not a picture"
    assert errors[0].facts["path"] == "-"  # not the temporary file


def test_an_unknown_task_comes_before_unreadable_files(workspace, tmp_path):
    with pytest.raises(NotFoundError):
        answer(workspace, tmp_path / "gone.png", task="nothing")
