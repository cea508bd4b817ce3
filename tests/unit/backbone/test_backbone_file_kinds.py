"""Files that are taken for checkpoints, recognised without running anything."""

import pytest
import torch
from safetensors.torch import save_file

from condu_cli.backbone.base_models import load_base
from condu_cli.backbone.file_kinds import FIRST, misfit_of
from condu_cli.backbone.weights.checkpoints import read_checkpoint
from condu_cli.cli.hints.making import hint_of
from condu_cli.errors import BaseModelError, DataError

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
TEXTS = {"pointer": POINTER, "text": "<!DOCTYPE html>\n<title>404 Not Found</title>\n"}


@pytest.fixture
def program(tmp_path):
    path = tmp_path / "program.pt"
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)), path)
    return path


def text_file(path, kind):
    path.write_text(TEXTS[kind])
    return path


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".ckpt"])
@pytest.mark.parametrize(
    ("kind", "said", "hint"),
    [
        ("pointer", "is a pointer to large-file storage", "git lfs pull"),
        ("text", "is a text file", "Download it again"),
    ],
)
def test_a_text_is_named_as_what_it_is(tmp_path, suffix, kind, said, hint):
    path = text_file(tmp_path / f"weights{suffix}", kind)
    with pytest.raises(DataError, match=said) as refused:
        read_checkpoint(path)
    assert hint in hint_of(refused.value)
    with pytest.raises(BaseModelError, match=said) as refused:
        load_base(f"condu-tiny:{path}")
    assert hint in hint_of(refused.value)


@pytest.mark.filterwarnings("ignore")
def test_a_program_is_named_and_not_run(program):
    with pytest.raises(DataError, match="is a TorchScript program") as refused:
        read_checkpoint(program)
    assert "torch.jit.load(FILE).state_dict()" in hint_of(refused.value)


def test_a_checkpoint_is_none_of_these(tmp_path):
    tensors = {"weight": torch.ones(3)}
    for new_format in (True, False):
        torch.save(tensors, tmp_path / "w.pt", _use_new_zipfile_serialization=new_format)
        assert misfit_of(tmp_path / "w.pt") is None
    save_file(tensors, tmp_path / "w.safetensors")
    assert misfit_of(tmp_path / "w.safetensors") is None


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", None),
        (b"\x00\x01", None),
        (b"caf\xe9", None),
        ("café".encode(), "text"),
        (("x" * (FIRST - 1) + "é").encode(), "text"),
        (("x" * (FIRST - 1)).encode() + b"\xff\xff", None),
        (b"PK\x03\x04", None),
    ],
)
def test_bytes_at_the_edge_of_being_text(tmp_path, content, kind):
    path = tmp_path / "file.pt"
    path.write_bytes(content)
    assert misfit_of(path) == kind


def test_a_missing_file_is_no_business_of_this(tmp_path):
    assert misfit_of(tmp_path / "gone.pt") is None
