"""Downloading: complete or not at all, nothing on stdout, one error for every failure.

torchvision's own code runs, with a server on this machine.
"""

from __future__ import annotations

import hashlib
import sys
import tarfile
import threading
import urllib.error
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import made_sets
import pytest
from torchvision import datasets

from condu_cli.cli.hints.making import hint_of
from condu_cli.data.sources.downloads import download_set
from condu_cli.data.sources.known_tasks import State, known_tasks, where
from condu_cli.data.sources.public_sets import read_known
from condu_cli.errors import DataError


@pytest.fixture
def root(tmp_path):
    return tmp_path / "sets"


class _Silent(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Put the archive of Describable Textures where torchvision looks for it."""
    made_sets.dtd(tmp_path / "made")
    archive = tmp_path / "served" / "dtd-r1.0.1.tar.gz"
    archive.parent.mkdir()
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(tmp_path / "made" / "dtd" / "dtd", "dtd")
    monkeypatch.setenv("no_proxy", "*")
    md5 = hashlib.md5(archive.read_bytes(), usedforsecurity=False).hexdigest()
    monkeypatch.setattr(datasets.DTD, "_MD5", md5)
    handler = partial(_Silent, directory=archive.parent)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        url = f"http://127.0.0.1:{http.server_port}/{archive.name}"
        monkeypatch.setattr(datasets.DTD, "_URL", url)
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield archive
        http.shutdown()


@pytest.mark.usefixtures("server")
def test_a_set_is_downloaded_to_where_it_is_looked_for(root, capsys):
    assert where("dtd", root).state is State.NOT_THERE
    download_set("dtd", root)
    assert where("dtd", root).state is State.THERE
    assert capsys.readouterr().out == ""
    assert [path.name for path in root.iterdir()] == ["dtd"]


@pytest.mark.usefixtures("server")
def test_reading_with_download_reads_what_was_downloaded(root):
    assert len(read_known("dtd", root, download=True).train) == 2


def test_what_is_there_is_not_downloaded_again(root):
    made_sets.dtd(root)
    assert len(read_known("dtd", root, download=True).train) == 2


@pytest.mark.usefixtures("server")
def test_the_archive_is_not_kept_beside_what_it_held(root):
    download_set("dtd", root)
    assert not list(root.rglob("*.tar.gz"))


@pytest.mark.usefixtures("server")
def test_an_empty_folder_in_its_place_is_not_an_obstacle(root):
    (root / "dtd").mkdir(parents=True)
    download_set("dtd", root)
    assert where("dtd", root).state is State.THERE


@pytest.mark.usefixtures("server")
def test_other_files_in_its_place_are_never_touched(root):
    (root / "dtd").mkdir(parents=True)
    (root / "dtd" / "mine.txt").touch()
    with pytest.raises(DataError, match="is in the way of the download") as caught:
        download_set("dtd", root)
    assert "Remove it" in hint_of(caught.value)
    assert (root / "dtd" / "mine.txt").exists()


def test_an_archive_that_arrives_corrupt_leaves_nothing(root, server):
    server.write_bytes(b"half")
    with pytest.raises(DataError, match=r"'dtd' could not be downloaded: .*corrupted") as caught:
        download_set("dtd", root)
    assert f"{root}/dtd" in hint_of(caught.value)
    assert known_tasks()["dtd"].public.url in hint_of(caught.value)
    assert list(root.iterdir()) == []


def test_an_archive_without_the_set_leaves_nothing(root, monkeypatch):
    monkeypatch.setattr(datasets, "DTD", lambda root, download: Path(root, "dtd").mkdir())
    with pytest.raises(DataError, match="does not hold the expected files"):
        download_set("dtd", root)
    assert list(root.iterdir()) == []


@pytest.mark.parametrize(
    "failure",
    [
        urllib.error.URLError("no route to host"),
        urllib.error.HTTPError("http://x", 404, "Not Found", None, None),
        RuntimeError("File not found or\ncorrupted."),
        zipfile.BadZipFile("File is not a zip file"),
        ConnectionResetError("reset by peer"),
        KeyError(),
    ],
    ids=lambda failure: type(failure).__name__,
)
def test_whatever_goes_wrong_is_one_line_that_names_the_files(root, monkeypatch, failure):
    def fails(root, download):
        Path(root, "eurosat", "2750").mkdir(parents=True)
        print("Downloading")
        raise failure

    monkeypatch.setattr(datasets, "EuroSAT", fails)
    with pytest.raises(DataError, match="'eurosat' could not be downloaded") as caught:
        download_set("eurosat", root)
    assert "\n" not in caught.value.message
    assert not caught.value.message.endswith(": ")
    assert f"EuroSAT.zip (RGB) unpacked in {root}/eurosat/" in hint_of(caught.value)
    assert where("eurosat", root).state is State.NOT_THERE
    assert list(root.iterdir()) == []


def test_an_interrupted_download_leaves_nothing(root, monkeypatch):
    def interrupted(root, download):
        made_sets.eurosat(Path(root))
        raise KeyboardInterrupt

    monkeypatch.setattr(datasets, "EuroSAT", interrupted)
    with pytest.raises(KeyboardInterrupt):
        download_set("eurosat", root)
    assert list(root.iterdir()) == []


def test_another_process_that_was_first_has_done_the_work(root, monkeypatch):
    def overtaken(draft, download):
        made_sets.eurosat(Path(draft))
        made_sets.eurosat(root)

    monkeypatch.setattr(datasets, "EuroSAT", overtaken)
    download_set("eurosat", root)
    assert [path.name for path in root.iterdir()] == ["eurosat"]


@pytest.mark.parametrize("task", ["stanford_cars", "tiny_imagenet"])
def test_what_torchvision_cannot_download_says_where_to_get_it(root, task):
    with pytest.raises(DataError, match="cannot be downloaded by torchvision") as caught:
        download_set(task, root)
    assert known_tasks()[task].public.url in hint_of(caught.value)
    assert str(root) in hint_of(caught.value)
    assert not root.exists()


def test_torchvision_can_download_what_the_catalogue_says_it_can():
    for task in known_tasks().values():
        if task.public is not None and task.public.torchvision is not None:
            assert hasattr(datasets, task.public.torchvision)
    with pytest.raises(ValueError, match="cannot be downloaded"):
        datasets.StanfordCars.download(None)


def test_flowers_are_not_fetched_where_their_labels_cannot_be_read(root, monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    monkeypatch.setattr(datasets, "Flowers102", lambda *_, **__: pytest.fail("downloaded"))
    with pytest.raises(DataError, match="scipy is not installed"):
        download_set("flowers", root)
