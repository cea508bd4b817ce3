"""Which inner loops run: chosen by name, environment or layout size."""

import os
import sys

import pytest

from condu_cli.core.passes import kernels, vectorised
from condu_cli.core.passes.kernels import COMPILED, ENVIRONMENT, WORTH_COMPILING, choose

SMALL = 1000


@pytest.fixture(autouse=True)
def no_choice_in_the_environment(monkeypatch):
    monkeypatch.delenv(ENVIRONMENT, raising=False)


@pytest.fixture
def nothing_imported():
    """Forget whether numba could be imported, before and after."""
    kernels.compiled_loops.cache_clear()
    yield
    kernels.compiled_loops.cache_clear()


@pytest.fixture
def without_numba(monkeypatch, nothing_imported):
    """Behave as if numba were not installed."""
    monkeypatch.setitem(sys.modules, "numba", None)
    monkeypatch.delitem(sys.modules, COMPILED, raising=False)


def test_an_implementation_is_chosen_by_name():
    assert choose(SMALL, "vectorised") is vectorised
    assert choose(WORTH_COMPILING, "vectorised") is vectorised


def test_the_compiled_loops_are_chosen_by_name_for_any_layout():
    pytest.importorskip("numba")
    assert choose(SMALL, "compiled").__name__ == COMPILED
    assert choose(WORTH_COMPILING, "compiled").__name__ == COMPILED


def test_only_much_work_is_worth_loading_compiled_loops_for(monkeypatch, nothing_imported):
    pytest.importorskip("numba")
    monkeypatch.delitem(sys.modules, COMPILED, raising=False)
    assert choose(0) is vectorised
    assert choose(WORTH_COMPILING - 1) is vectorised
    assert choose(WORTH_COMPILING).__name__ == COMPILED


def test_compiled_loops_that_are_loaded_are_used_for_any_work():
    pytest.importorskip("condu_cli.core.passes.compiled")
    assert choose(SMALL).__name__ == COMPILED


def test_the_environment_may_insist(monkeypatch):
    monkeypatch.setenv(ENVIRONMENT, "vectorised")
    assert choose(WORTH_COMPILING) is vectorised


def test_the_environment_may_insist_on_compiled_loops(monkeypatch):
    pytest.importorskip("numba")
    monkeypatch.setenv(ENVIRONMENT, "compiled")
    assert choose(SMALL).__name__ == COMPILED


def test_an_argument_comes_before_the_environment(monkeypatch):
    monkeypatch.setenv(ENVIRONMENT, "compiled")
    assert choose(SMALL, "vectorised") is vectorised


@pytest.mark.parametrize("name", ["fortran", "Compiled", "kernels", "compiled "])
def test_another_name_is_refused(name, monkeypatch):
    with pytest.raises(ValueError, match=f"not '{name}'"):
        choose(SMALL, name)
    monkeypatch.setenv(ENVIRONMENT, name)
    with pytest.raises(ValueError, match=f"not '{name}'"):
        choose(SMALL)


@pytest.mark.usefixtures("without_numba")
def test_without_numba_every_layout_uses_array_operations():
    assert kernels.compiled_loops() is None
    assert choose(SMALL) is vectorised
    assert choose(WORTH_COMPILING) is vectorised


@pytest.mark.usefixtures("without_numba")
def test_without_numba_compiled_loops_cannot_be_chosen_by_name(monkeypatch):
    with pytest.raises(ImportError, match="numba"):
        choose(WORTH_COMPILING, "compiled")
    monkeypatch.setenv(ENVIRONMENT, "compiled")
    with pytest.raises(ImportError, match="numba"):
        choose(WORTH_COMPILING)


@pytest.mark.usefixtures("without_numba")
def test_a_numba_that_cannot_be_imported_counts_as_missing(monkeypatch):
    def broken(name):
        raise ImportError("Numba needs NumPy 2.4 or less")

    monkeypatch.setattr(kernels, "import_module", broken)
    assert choose(WORTH_COMPILING) is vectorised


def test_there_is_a_thread_for_each_processor_of_this_process(monkeypatch):
    assert 1 <= kernels.threads() <= (os.cpu_count() or 1)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 3, 5}, raising=False)
    assert kernels.threads() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert kernels.threads() == 1
