"""Commands that run a model have malloc keep freed memory; the others leave it as it is."""

import pytest

from condu_cli.backbone import base_models


@pytest.fixture
def told(monkeypatch):
    """How often malloc was told to keep freed memory."""
    calls: list[int] = []
    monkeypatch.setattr(base_models, "keep_freed_memory", lambda: calls.append(1))
    base_models.load_base.cache_clear()
    yield calls
    base_models.load_base.cache_clear()


@pytest.mark.parametrize(
    "args",
    [
        ("predict", "colours", "--device", "cpu"),
        ("evaluate", "--task", "warm", "--data", "colours", "--device", "cpu"),
        ("learn", "--task", "cold", "--data", "colours", "--device", "cpu", "--iterations", "1"),
    ],
    ids=lambda args: args[0],
)
@pytest.mark.usefixtures("learned", "colours")
def test_commands_that_run_a_model_tell_malloc(condu, told, tmp_path, monkeypatch, args):
    monkeypatch.chdir(tmp_path)
    ran = condu(*args)
    assert ran.code == 0, ran.err
    assert told == [1]


@pytest.mark.parametrize(
    "args", ["ls", "log", "show warm", "storage-report", "verify", "gc", "forget warm -y", "bases"]
)
@pytest.mark.usefixtures("learned")
def test_commands_without_a_model_do_not(condu, told, args):
    ran = condu(*args.split())
    assert ran.code == 0, ran.err
    assert told == []
