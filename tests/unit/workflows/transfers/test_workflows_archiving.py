"""A registry with real experts survives an export and an import."""

import pytest

from condu_cli.errors import UsageError
from condu_cli.registry.repository import Registry
from condu_cli.workflows.opening.workspace import Workspace
from condu_cli.workflows.sessions.states import open_state
from condu_cli.workflows.transfers.archiving import export_registry, import_registry


def test_experts_are_restored_and_usable(registry_path, tmp_path):
    registry = Registry.open(registry_path)
    written = export_registry(registry, tmp_path / "shared.condu", overwrite=False)
    assert written.tasks == ("warm", "plants")
    assert written.size == (tmp_path / "shared.condu").stat().st_size
    made = import_registry(tmp_path / "shared.condu", tmp_path / "copy")
    assert (made.head, made.blobs) == (written.head, written.blobs)
    copy = Registry.open(tmp_path / "copy")
    assert copy.history() == registry.history()
    state = open_state(copy, copy.head())
    assert len(state.parts) == 2
    assert Workspace(copy).base.info.id == "tiny"


def test_where_the_pictures_are_stays_here(registry_path, tmp_path, warm):
    registry = Registry.open(registry_path)
    export_registry(registry, tmp_path / "shared.condu", overwrite=False)
    assert str(warm).encode() not in (tmp_path / "shared.condu").read_bytes()


def test_another_place_for_the_base_model(registry_path, tmp_path):
    registry = Registry.open(registry_path)
    export_registry(registry, tmp_path / "a", overwrite=False)
    made = import_registry(tmp_path / "a", tmp_path / "copy", base="ViT-B-16:weights.safetensors")
    base = Registry.open(tmp_path / "copy").config.base
    # A registry may be used from other folders than the one it was created from.
    assert base.id.startswith("ViT-B-16:/")
    assert base.id.endswith("/weights.safetensors")
    assert made.base_id == base.id
    assert base.weights_sha256 == registry.config.base.weights_sha256


def test_an_unknown_base_model(registry_path, tmp_path):
    export_registry(Registry.open(registry_path), tmp_path / "a", overwrite=False)
    with pytest.raises(UsageError, match="is not the name of a base model"):
        import_registry(tmp_path / "a", tmp_path / "copy", base="nothing")
    assert not (tmp_path / "copy").exists()


def test_weights_are_not_archives(tmp_path):
    for name in ("a.safetensors", "a.pt", "a.PTH"):
        (tmp_path / name).write_bytes(b"whatever a corrupt or sound checkpoint holds")
        with pytest.raises(UsageError, match="one model"):
            import_registry(tmp_path / name, tmp_path / "new")
    (tmp_path / "peft").mkdir()
    (tmp_path / "peft" / "adapter_config.json").write_text("{}")
    with pytest.raises(UsageError, match="one model"):
        import_registry(tmp_path / "peft", tmp_path / "new")
