import pytest

from condu_cli.preprocessing import Preparation

HALF = (0.5, 0.5, 0.5)
SIGLIP = Preparation(HALF, HALF, "bicubic", "squash")


def test_a_record_is_read_back() -> None:
    assert Preparation.from_record(SIGLIP.to_record()) == SIGLIP
    assert SIGLIP.to_record()["mean"] == [0.5, 0.5, 0.5]


def test_whole_numbers_are_numbers() -> None:
    assert Preparation((0, 0, 0), (1, 1, 1)).std == (1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"mean": [0.5, 0.5]}, "mean must be three numbers"),
        ({"mean": 0.5}, "mean must be three numbers"),
        ({"mean": ["0.5", 0.5, 0.5]}, "mean must be three numbers"),
        ({"mean": [float("nan"), 0.5, 0.5]}, "mean must be three numbers"),
        ({"std": [True, 1, 1]}, "std must be three numbers"),
        ({"mean": [10**400, 0.5, 0.5]}, "mean must be three numbers"),
        ({"mean": [127, 127, 127]}, r"mean must be on the 0\.\.1 scale, not 127"),
        ({"mean": [-0.1, 0.5, 0.5]}, r"mean must be on the 0\.\.1 scale"),
        ({"std": [0.5, 0.0, 0.5]}, "std must be above 0 and at most 1"),
        ({"std": [58, 57, 57]}, "std must be above 0 and at most 1"),
        ({"interpolation": "random"}, "interpolation must be bicubic or bilinear, not 'random'"),
        ({"resize_mode": "longest"}, "resize_mode must be shortest or squash, not 'longest'"),
        ({"resize_mode": None}, "resize_mode must be"),
    ],
)
def test_a_value_that_condu_cannot_use_is_named(values: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Preparation.from_record({**SIGLIP.to_record(), **values})


@pytest.mark.parametrize("record", [None, [], {}, {"mean": HALF}, {**SIGLIP.to_record(), "x": 1}])
def test_a_record_has_all_values_and_no_others(record: object) -> None:
    with pytest.raises(ValueError, match="does not say"):
        Preparation.from_record(record)
