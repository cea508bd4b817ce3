"""The rule for the caller's own labels, with arbitrary logits: what it never does."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from condu_cli.core.metrics import softmax
from condu_cli.workflows.answering.answers import Candidate, RoutedExpert, own_labels, prediction
from condu_cli.workflows.answering.learned_labels import LearnedLabels
from condu_cli.workflows.answering.rules import among_labels

CLASSES = 5
"""Classes of every task; some of them are labels."""


class MadePanel:
    """A panel whose models say anything: base (N, L), experts {task: (N, CLASSES)}."""

    def __init__(self, base, experts, of_task):
        self.base, self.experts = base, experts
        self.learned = LearnedLabels(of_task)
        self.base_was_asked = False

    def all_candidates(self):
        return own_labels([f"label {index}" for index in range(self.base.shape[1])])

    def own_candidates(self, task):
        return tuple(Candidate(f"{task} {index}", task, ("{}",)) for index in range(CLASSES))

    def base_logits(self, candidates):
        self.base_was_asked = True
        assert len(candidates) == self.base.shape[1]
        return self.base

    def expert_logits(self, task, candidates, indices):
        assert candidates == self.own_candidates(task)
        return self.experts[task][list(indices)]

    def report(self, stage, done, total):
        assert 0 <= done <= total


@st.composite
def situations(draw):
    """A panel of up to 6 pictures, 5 labels and 3 tasks, and a route for every picture."""
    pictures, labels = draw(st.integers(1, 6)), draw(st.integers(2, 5))
    tasks = [f"task {i}" for i in range(draw(st.integers(1, 3)))]
    places = st.dictionaries(st.integers(0, labels - 1), st.integers(0, CLASSES - 1), max_size=3)
    of_task = {task: found for task in tasks if (found := draw(places))}
    # Few distinct values, so that ties occur.
    value = st.sampled_from([-30.0, -1.0, 0.0, 0.5, 1.0, 30.0])

    def logits(columns):
        rows = st.lists(value, min_size=columns, max_size=columns)
        found = draw(st.lists(rows, min_size=pictures, max_size=pictures))
        return np.array(found, dtype=np.float32)

    panel = MadePanel(logits(labels), {task: logits(CLASSES) for task in tasks}, of_task)
    routes = [
        (RoutedExpert(draw(st.sampled_from(sorted(of_task))), 0.5),) if of_task else ()
        for _ in range(pictures)
    ]
    return panel, routes


def zero_shot(panel):
    return [prediction(row, panel.all_candidates(), ()) for row in panel.base]


@given(situations())
def test_no_picture_of_an_unseen_class_is_lost_that_zero_shot_gets_right(situation):
    """Whatever class such a picture has: accuracy on them is at least zero-shot's."""
    panel, routes = situation
    unseen = set(range(panel.base.shape[1])) - panel.learned.indices
    answered = among_labels(panel, routes)
    for ours, base in zip(answered, zero_shot(panel), strict=True):
        for label in unseen:
            name = f"label {label}"
            if base.answers[0].label == name:
                assert ours == base


@given(situations())
def test_an_expert_changes_an_answer_only_from_a_learned_label_to_one_of_its_own(situation):
    panel, routes = situation
    learned = panel.learned
    everything = len(learned.indices) == panel.base.shape[1]
    rows = zip(among_labels(panel, routes), zero_shot(panel), routes, strict=True)
    for ours, base, route in rows:
        best = ours.answers[0].label
        if ours.experts:
            task = route[0].task
            assert ours.experts == route
            assert ours.answers[0].task == task
            assert best in {f"label {label}" for label in learned.of_task[task]}
            assert everything or int(base.answers[0].label.split()[1]) in learned.indices
        else:
            assert best == base.answers[0].label


@given(situations())
def test_every_label_has_a_probability_and_the_best_comes_first(situation):
    panel, routes = situation
    for ours in among_labels(panel, routes):
        values = [answer.probability for answer in ours.answers]
        assert len(values) == panel.base.shape[1]
        assert sum(values) == pytest.approx(1)
        assert values == sorted(values, reverse=True)


@given(situations())
def test_the_base_model_is_asked_unless_all_labels_are_learned(situation):
    panel, routes = situation
    among_labels(panel, routes)
    assert panel.base_was_asked == (len(panel.learned.indices) < panel.base.shape[1])


def test_an_expert_shares_the_probability_among_its_labels_as_its_logits_say():
    base = np.zeros((1, 3), np.float32)
    expert = np.array([[1.0, 2.0, 4.0, 9.0, 9.0]], np.float32)
    panel = MadePanel(base, {"t": expert}, {"t": {0: 2, 1: 0, 2: 1}})
    (ours,) = among_labels(panel, [(RoutedExpert("t", 0.9),)])
    shares = softmax(np.array([[4.0, 1.0, 2.0]]))[0]
    found = {answer.label: answer.probability for answer in ours.answers}
    assert found == pytest.approx({f"label {i}": share for i, share in enumerate(shares)})
