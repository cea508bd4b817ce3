"""The demo has a registry of its own: it refuses a folder in use, and errors in it name its own."""

import shutil

import pytest
from made_registries import files_of, flip

from condu_cli.cli import demo, predict
from condu_cli.errors import ConduError, InterruptedByUserError
from condu_cli.registry.repository import Registry

TEMPORARY = "that registry was the demo's and is removed: condu demo --keep DIR keeps it"


@pytest.fixture
def tour_fails(monkeypatch):
    """Make the tour end with this exception."""

    def fail(exc: BaseException):
        def take(_tour):
            raise exc

        monkeypatch.setattr(demo.Tour, "take", take)

    return fail


@pytest.fixture
def corrupt_tour(colours, monkeypatch, learned_once):
    """A tour that asks a registry with a corrupt blob."""

    def take(tour):
        path = tour._run.registry_path
        shutil.copytree(learned_once[0], path)
        registry = Registry.open(path)
        flip(registry.blobs.path(registry.head().entry("warm").part), -1)
        return predict.predict(tour._run, [str(colours)], task="warm")

    monkeypatch.setattr(demo.Tour, "take", take)


@pytest.fixture
def opened(monkeypatch):
    """The registries that were opened."""
    paths, sound = [], Registry.open

    def open_registry(path, **options):
        paths.append(path)
        return sound(path, **options)

    monkeypatch.setattr(Registry, "open", open_registry)
    return paths


@pytest.mark.parametrize("place", ["registry", "file", "link"])
@pytest.mark.usefixtures("learned")
def test_a_folder_to_keep_it_in_that_is_in_use_is_refused(condu, tmp_path, place):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("nowhere")
    before = files_of(tmp_path)
    ran = condu("demo", "--keep", tmp_path / place, "--registry", "mine")
    assert (ran.code, ran.out) == (2, "")
    said = f"cannot keep the demo's registry at {tmp_path / place}: it exists and is not an empty"
    assert said in ran.err
    assert "hint: Name a folder that does not exist yet with --keep\n" in ran.err
    assert "mine" not in ran.err
    assert files_of(tmp_path) == before


def test_an_empty_folder_is_filled(condu, tour_fails, tmp_path):
    tour_fails(ConduError("started", reason="cannot-lock"))
    assert "error: started" in condu("demo", "--keep", tmp_path).err


@pytest.mark.usefixtures("learned", "corrupt_tour")
def test_an_error_inside_names_the_demos_registry(condu, tmp_path, opened):
    keep = tmp_path / "kept"
    ran = condu("demo", "--keep", keep, "--registry", tmp_path / "registry")
    assert ran.code == 14
    assert f"needs {keep}/blobs/" in ran.err
    assert f" --registry {keep}" in ran.err
    assert "demo --keep" not in ran.err
    assert set(opened) == {keep}


@pytest.mark.usefixtures("learned", "corrupt_tour")
def test_an_error_inside_a_temporary_demo_says_that_its_registry_is_gone(condu, tmp_path, opened):
    ran = condu("demo", "--registry", "mine")
    assert ran.code == 14
    assert f"condu verify --registry DIR lists every corrupt file; {TEMPORARY}\n" in ran.err
    assert tmp_path / "registry" not in opened
    assert all("mine" not in str(path) for path in opened)


@pytest.mark.parametrize(
    "reason", ["cannot-create-registry", "registry-path-not-writable", "disk-too-full"]
)
def test_another_place_is_named_by_the_demos_option(condu, tour_fails, reason):
    tour_fails(ConduError("no place", reason=reason))
    hint = condu("demo", "--keep", "r0", "--registry", "mine").err.partition("hint: ")[2]
    assert hint.endswith(" --keep\n")
    assert "mine" not in hint


INTERRUPTIONS = [
    KeyboardInterrupt(),
    InterruptedByUserError("interrupted", reason="interrupted"),
]


@pytest.mark.parametrize("exc", INTERRUPTIONS, ids=["Ctrl-C", "in a command"])
def test_an_interrupted_demo_names_its_registry_if_that_is_kept(condu, tour_fails, exc):
    tour_fails(exc)
    kept = condu("demo", "--keep", "r0", "--registry", "mine")
    assert kept.code == 130
    assert "condu log --registry r0 shows where HEAD is" in kept.err
    temporary = condu("demo")
    assert temporary.code == 130
    assert temporary.err == (
        "error: the demo was interrupted\n"
        "hint: Its registry is removed; condu demo --keep DIR keeps it\n"
    )
