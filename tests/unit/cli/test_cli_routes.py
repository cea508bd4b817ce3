"""`condu evaluate --label-space union`: which task took whose pictures."""

from condu_cli.cli.tasks import _print_routes
from condu_cli.cli.writing.output import Output


def printed(capsys, routes) -> list[list[str]]:
    _print_routes(routes, Output())
    return [line.split() for line in capsys.readouterr().out.splitlines() if line.strip(" ─")]


def test_several_tasks_are_a_matrix_and_the_worst_confusions_a_line(capsys):
    routes = {"dtd": {"dtd": 188, "caltech101": 9, "pets": 3}, "pets": {"pets": 111}}
    header, dtd, pets, confused = printed(capsys, routes)
    assert header == ["routed", "to", "caltech101", "dtd", "pets"]
    assert dtd == ["dtd", "9", "188", "3"]
    assert pets == ["pets", "0", "0", "111"]
    assert " ".join(confused) == (
        "routed to another task: dtd to caltech101 9 of 200, dtd to pets 3 of 200"
    )


def test_one_task_needs_no_matrix(capsys):
    (line,) = printed(capsys, {"dtd": {"dtd": 7, "pets": 3}})
    assert " ".join(line) == "routed to another task: dtd to pets 3 of 10"


def test_only_the_worst_of_many_confusions_are_named(capsys):
    many = {f"t{i}": {f"t{i}": 50, f"t{i + 1}": i} for i in range(1, 14)}
    (line,) = printed(capsys, many)  # too many tasks for a matrix
    text = " ".join(line)
    assert text.endswith("t13 to t14 13 of 63, t12 to t13 12 of 62, t11 to t12 11 of 61")


def test_nothing_is_said_where_nothing_went_wrong_or_no_router_was_asked(capsys):
    assert printed(capsys, {}) == []
    assert printed(capsys, {"pets": {"pets": 111}}) == []
