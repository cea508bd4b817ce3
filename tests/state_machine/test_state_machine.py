"""The registry against a plain model: whatever is done in whatever order, nothing is lost.

Hypothesis draws sequences of operations. For each session, the model knows what its experts decoded
to when it was committed; HEAD, tags, what an undo restores and what was collected follow from
simple rules. After each step the registry must agree with the model, bit for bit.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from hypothesis_profiles import one_in
from made_registries import decoded, learn, made_expert, made_registry

from condu_cli.errors import HeadMovedError, NotFoundError, UsageError
from condu_cli.registry.repository import Registry
from condu_cli.registry.rollbacks import Aim
from condu_cli.workflows.sessions.collecting import collect, plan_collection
from condu_cli.workflows.sessions.committing import Commit, commit_expert, resume_expert
from condu_cli.workflows.sessions.forgetting import forget, rename
from condu_cli.workflows.sessions.moving_head import roll_back
from condu_cli.workflows.sessions.verification import verify

TASKS = ("birds", "cars", "digits", "flags", "shapes", "textures")
TAGS = ("first", "good", "paper")
DTYPES = ("float32", "bfloat16", "int8")
RESCALERS = ("global", "tensor", "row")
OTHERS: tuple[dict[str, str], ...] = ({}, {"exact": "vectors", "trim": "0.5"})
SEEDS = st.integers(0, 3)
PLACES = st.integers(0, 99)


@dataclass
class Model:
    """What the registry should hold. `undo` has the sessions that rollbacks left, latest last.

    `beginnings`: the tasks of each session whose experts are beginnings.
    """

    head: str | None = None
    parents: dict[str, str | None] = field(default_factory=dict)
    experts: dict[str | None, dict[str, str]] = field(default_factory=lambda: {None: {}})
    beginnings: dict[str | None, set[str]] = field(default_factory=lambda: {None: set()})
    undo: list[str | None] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)
    collected: set[str] = field(default_factory=set)
    waiting: list[str] = field(default_factory=list)

    @property
    def tasks(self) -> list[str]:
        return list(self.experts[self.head])

    @property
    def begun(self) -> list[str]:
        return sorted(self.beginnings[self.head])

    @property
    def live(self) -> list[str]:
        return [session for session in self.parents if session not in self.collected]

    def line(self, end: str | None = None) -> list[str | None]:
        """A session (HEAD), everything before it, and None for the empty state."""
        found: list[str | None] = [self.head if end is None else end]
        while found[-1] is not None:
            found.append(self.parents[found[-1]])
        return found

    def free_task(self, place: int) -> str:
        free = [task for task in TASKS if task not in self.tasks]
        return free[place % len(free)]

    def commit(self, session: str, experts: dict[str, str], beginnings: set[str]) -> None:
        self.parents[session] = self.head
        self.experts[session] = experts
        self.beginnings[session] = beginnings
        self.head = session
        self.undo.clear()

    def move(self, target: str | None) -> None:
        self.undo.append(self.head)
        self.head = target

    def kept(self, keep: int | None, *, undo: bool) -> set[str]:
        kept = set(self.tags.values())
        for end in (self.head, *(self.undo if undo else ())):
            line = [session for session in self.line(end) if session is not None]
            kept |= set(line if keep is None else line[:keep])
        return kept - self.collected


class RegistryMachine(RuleBasedStateMachine):
    """The rules: what users do. The invariants: what they may rely on."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.model = Model()
        self.steps = 0

    def teardown(self) -> None:
        self.folder.cleanup()

    @initialize(
        dtype=st.sampled_from(DTYPES),
        rescaler=st.sampled_from(RESCALERS),
        others=st.sampled_from(OTHERS),
    )
    def create(self, dtype: str, rescaler: str, others: dict[str, str]) -> None:
        path = Path(self.folder.name) / "registry"
        self.registry = made_registry(path, dtype=dtype, rescaler=rescaler, **others)

    # Sessions

    @precondition(lambda self: len(self.model.tasks) < len(TASKS))
    @rule(place=PLACES, seed=SEEDS, kind=st.sampled_from(["learn", "import"]), head=st.booleans())
    def learn(self, place: int, seed: int, kind: str, head: bool) -> None:
        task = self.model.free_task(place)
        session = learn(self.registry, task, seed, kind=kind, head=head)
        assert session.kind == kind
        self._committed(session, [*self.model.tasks, task], set(self.model.begun))

    @precondition(lambda self: len(self.model.tasks) < len(TASKS))
    @rule(place=PLACES, seed=SEEDS, head=st.booleans())
    def begin(self, place: int, seed: int, head: bool) -> None:
        task = self.model.free_task(place)
        session = learn(self.registry, task, seed, quick=True, head=head)
        self._committed(session, [*self.model.tasks, task], {*self.model.begun, task})

    @precondition(lambda self: self.model.begun)
    @rule(place=PLACES, seed=SEEDS, quick=st.booleans())
    def go_on_from_a_beginning(self, place: int, seed: int, quick: bool) -> None:
        task = self.model.begun[place % len(self.model.begun)]
        session = learn(self.registry, task, seed, quick=quick)
        self._replaced(session, task, quick=quick)

    def _replaced(self, session, task: str, *, quick: bool = False) -> None:
        others = [other for other in self.model.tasks if other != task]
        begun = {*self.model.begun} - {task} | ({task} if quick else set())
        self._committed(session, [*others, task], begun)

    @precondition(lambda self: set(self.model.tasks) - set(self.model.begun))
    @rule(place=PLACES, seed=SEEDS)
    def learn_what_is_learned(self, place: int, seed: int) -> None:
        learned = [task for task in self.model.tasks if task not in self.model.begun]
        expert = made_expert(learned[place % len(learned)], seed)
        with pytest.raises(UsageError, match="already been learned"):
            commit_expert(self.registry, expert, parent=self.model.head, command="learn")
        self.model.waiting.append(expert.task)

    @precondition(lambda self: self.model.tasks)
    @rule(place=PLACES)
    def forget(self, place: int) -> None:
        tasks = self.model.tasks
        gone = tasks.pop(place % len(tasks))
        session = forget(self.registry, gone, f"forget {gone}").session
        self._committed(session, tasks, {*self.model.begun} - {gone})

    @precondition(lambda self: 0 < len(self.model.tasks) < len(TASKS))
    @rule(place=PLACES, to=PLACES)
    def rename(self, place: int, to: int) -> None:
        tasks = self.model.tasks
        old, new = tasks[place % len(tasks)], self.model.free_task(to)
        before = self.model.experts[self.model.head]
        begun = {new if task == old else task for task in self.model.begun}
        session = rename(self.registry, old, new, f"rename {old} {new}").session
        self._committed(session, [new if task == old else task for task in tasks], begun)
        renamed = {new if task == old else task: bits for task, bits in before.items()}
        assert self.model.experts[session.id] == renamed

    def _committed(self, session, tasks: list[str], beginnings: set[str]) -> None:
        experts = decoded(self.registry, session)
        assert list(experts) == tasks
        assert session.parent == self.model.head
        self.model.commit(session.id, experts, beginnings)

    # HEAD has moved while an expert was trained

    @precondition(lambda self: self.model.parents)
    @rule(task=st.sampled_from(TASKS), place=PLACES, seed=SEEDS)
    def learn_on_what_is_not_head_any_more(self, task: str, place: int, seed: int) -> None:
        others = [s for s in (*self.model.parents, None) if s != self.model.head]
        stale = others[place % len(others)]
        with pytest.raises(HeadMovedError, match="HEAD moved"):
            commit_expert(
                self.registry, made_expert(task, seed), parent=stale, command=f"learn --task {task}"
            )
        self.model.waiting.append(task)

    @precondition(lambda self: self.model.waiting)
    @rule(place=PLACES)
    def resume(self, place: int) -> None:
        waiting = self.registry.waiting.all()
        expert = waiting[place % len(waiting)]
        begun = expert.task in self.model.begun
        if expert.task in self.model.tasks and not begun:
            with pytest.raises(UsageError, match="already been learned"):
                resume_expert(self.registry, expert, command="learn --resume")
            return
        commit = resume_expert(self.registry, expert, command="learn --resume")
        assert isinstance(commit, Commit)
        self._replaced(commit.session, expert.task)
        self.model.waiting.remove(expert.task)

    # HEAD

    @precondition(lambda self: self.model.live)
    @rule(place=PLACES)
    def roll_back_to_any(self, place: int) -> None:
        targets = [s for s in (None, *self.model.live) if s != self.model.head]
        if targets:
            self._roll_back(targets[place % len(targets)])

    @precondition(lambda self: self.model.head is not None)
    @rule(steps=st.integers(1, 4))
    def roll_back_some_steps(self, steps: int) -> None:
        line = self.model.line()
        if steps >= len(line):
            with pytest.raises(UsageError, match="cannot go back"):
                roll_back(self.registry, Aim(steps=steps), "rollback")
        elif line[steps] in self.model.collected:
            with pytest.raises(NotFoundError, match="removed by garbage collection"):
                roll_back(self.registry, Aim(steps=steps), "rollback")
        else:
            roll_back(self.registry, Aim(steps=steps), "rollback")
            self.model.move(line[steps])

    def _roll_back(self, target: str | None) -> None:
        line = self.model.line()
        aim = Aim(steps=len(line) - 1) if target is None else Aim(target)
        roll_back(self.registry, aim, "rollback")
        self.model.move(target)

    @rule()
    def undo(self) -> None:
        if not self.model.undo:
            with pytest.raises(UsageError, match="no rollback to undo"):
                roll_back(self.registry, Aim(undo=True), "rollback --undo")
        elif self.model.undo[-1] in self.model.collected:
            with pytest.raises(NotFoundError):
                roll_back(self.registry, Aim(undo=True), "rollback --undo")
        else:
            roll_back(self.registry, Aim(undo=True), "rollback --undo")
            self.model.head = self.model.undo.pop()

    # Tags

    @precondition(lambda self: self.model.parents)
    @rule(name=st.sampled_from(TAGS), place=PLACES)
    def tag(self, name: str, place: int) -> None:
        target = list(self.model.parents)[place % len(self.model.parents)]
        session = self.registry.session(target)
        if target in self.model.collected:
            with pytest.raises(NotFoundError):
                self.registry.tag(name, session, f"tag {name}")
        elif name in self.model.tags:
            with pytest.raises(UsageError, match="already"):
                self.registry.tag(name, session, f"tag {name}")
        else:
            self.registry.tag(name, session, f"tag {name}")
            self.model.tags[name] = target

    @precondition(lambda self: self.model.tags)
    @rule(place=PLACES)
    def untag(self, place: int) -> None:
        name = sorted(self.model.tags)[place % len(self.model.tags)]
        was = self.registry.remove_tag(name, f"tag --delete {name}")
        assert was == self.model.tags.pop(name)

    # Upkeep

    @rule(keep=st.sampled_from([None, None, 1, 2, 3]), undo=st.booleans())
    def collect(self, keep: int | None, undo: bool) -> None:
        gone = set(self.model.live) - self.model.kept(keep, undo=undo)
        plan = plan_collection(self.registry, keep, undo=undo)
        done = collect(self.registry, keep, undo=undo)
        assert {s.id for s in plan.sessions} == {s.id for s in done.sessions} == gone
        self.model.collected |= gone
        needed = set(self.registry.history().needed_blobs())
        assert {ref.sha256 for ref in self.registry.blobs.all()} == needed

    @rule()
    def verify_every_byte(self) -> None:
        assert verify(self.registry).problems == ()

    @rule()
    def reopen(self) -> None:
        self.registry = Registry.open(self.registry.path)

    # What holds after each step

    @invariant()
    def head_decodes_to_what_was_committed(self) -> None:
        head = self.registry.head()
        assert (None if head is None else head.id) == self.model.head
        assert decoded(self.registry, head) == self.model.experts[self.model.head]

    @invariant()
    def an_older_session_too(self) -> None:
        """Another one after each step, as all of them would take long."""
        self.steps += 1
        if self.model.live:
            session = self.model.live[self.steps % len(self.model.live)]
            found = decoded(self.registry, self.registry.session(session))
            assert found == self.model.experts[session]

    @invariant()
    def the_history_is_the_models(self) -> None:
        history = self.registry.history()
        assert history.head == self.model.head
        assert [session.id for session in history.sessions] == list(self.model.parents)[::-1]
        assert {s.id: s.parent for s in history.sessions} == self.model.parents
        assert set(history.collected) == self.model.collected
        assert dict(history.tags) == self.model.tags == self.registry.tags()
        assert history.undoable == set(self.model.undo) - {None}
        assert self.model.head not in self.model.collected

    @invariant()
    def what_waits_is_what_was_refused(self) -> None:
        waiting = [expert.task for expert in self.registry.waiting.all()]
        assert sorted(waiting) == sorted(self.model.waiting)

    @invariant()
    def the_registry_is_sound(self) -> None:
        assert verify(self.registry, quick=True).problems == ()


RegistryMachine.TestCase.settings = settings(
    one_in(4),
    stateful_step_count=20,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
TestRegistry = RegistryMachine.TestCase
