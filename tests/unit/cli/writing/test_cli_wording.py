"""Figures as people read them."""

import pytest

from condu_cli.cli.writing.wording import duration, percent, plural, size, when


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (1234567, "1.2 MB"),
        (598_000_000, "598.0 MB"),
        (6_279_460_000, "6.28 GB"),
        (5e12, "5000.00 GB"),
    ],
)
def test_sizes_are_decimal(count, text):
    assert size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.034, "0.03 s"), (9.87, "9.87 s"), (59.7, "60 s"), (119, "119 s"), (125.9, "2 min 5 s")],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("share", "text"), [(1.0, "100.0 %"), (0.12345, "12.3 %"), (0.0, "0.0 %"), (None, "-")]
)
def test_shares(share, text):
    assert percent(share) == text


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 tasks"), (1, "1 task"), (2, "2 tasks"), (1797, "1,797 tasks")]
)
def test_numbers_of_things(count, text):
    assert plural(count, "task") == text


@pytest.mark.parametrize(("count", "text"), [(0, "0 classes"), (1, "1 class"), (2, "2 classes")])
def test_numbers_of_things_that_end_in_s(count, text):
    assert plural(count, "class") == text


def test_times_are_the_users_own(monkeypatch):
    import time

    monkeypatch.setenv("TZ", "Etc/GMT-2")
    time.tzset()
    try:
        assert when("2026-01-31T23:59:59.123456Z") == "2026-02-01 01:59:59"
    finally:
        monkeypatch.undo()
        time.tzset()
