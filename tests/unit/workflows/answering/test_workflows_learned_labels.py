"""Labels against the classes of tasks: equal names, several tasks, classes without pictures."""

from types import SimpleNamespace

import numpy as np

from condu_cli.core.routing.prototypes import Prototypes
from condu_cli.workflows.answering.learned_labels import LearnedLabels, learned_labels


def entry(name, *classes):
    return SimpleNamespace(name=name, expert=SimpleNamespace(classes=classes))


def counted(*counts) -> Prototypes:
    zeros = np.zeros((len(counts), 2), np.float32)
    return Prototypes(zeros, zeros, zeros, np.array(counts))


PETS = entry("pets", "Maine Coon", "Bengal")
ANIMALS = entry("animals", "bird", "bengal", "cat")


def test_case_and_underscores_do_not_matter():
    found = learned_labels([PETS], ("maine_coon", "sea", " BENGAL"))
    assert found == LearnedLabels({"pets": {0: 0, 2: 1}})
    assert found.indices == {0, 2}


def test_a_label_may_be_a_class_of_two_tasks_and_a_task_without_labels_is_left_out():
    found = learned_labels([PETS, ANIMALS, entry("cars", "Audi")], ("bengal", "cat"))
    assert found.of_task == {"pets": {0: 1}, "animals": {0: 1, 1: 2}}


def test_of_two_classes_with_comparable_names_the_one_spelled_alike_is_meant():
    task = entry("t", "a b", "A_B", "a_b")
    assert learned_labels([task], ("a_b", "A_B", "A b")).of_task == {"t": {0: 2, 1: 1, 2: 0}}


def test_nothing_learned_is_empty():
    found = learned_labels([PETS], ("sea", "fire"))
    assert (found.of_task, found.indices) == ({}, frozenset())


def test_classes_without_pictures_are_not_findable_beside_others():
    found = learned_labels([PETS, ANIMALS], ("bengal", "cat", "bird"))
    pictured = found.findable({"pets": counted(3, 0), "animals": counted(0, 2, 4)})
    assert pictured.of_task == {"animals": {0: 1, 1: 2}}


def test_where_no_class_has_pictures_all_stay():
    found = learned_labels([PETS, ANIMALS], ("bengal", "cat"))
    assert found.findable({"pets": counted(0, 0), "animals": counted(0, 0, 0)}) == found
