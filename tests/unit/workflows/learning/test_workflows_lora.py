"""A LoRA registry end to end: create, learn, predict, export, import."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis_profiles import one_in
from lora_registries import CLASSES, commit, lora_config, made_delta, made_registry
from safetensors.torch import load_file, save_file

from condu_cli.backbone.base_models import load_base
from condu_cli.backbone.deltas import delta_of, weights_of
from condu_cli.backbone.weight_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from condu_cli.backbone.weights.adapters import read_adapter
from condu_cli.cli.hints.making import hint_of
from condu_cli.core.codecs.interface import EMPTY
from condu_cli.errors import BaseModelError, DataError, IntegrityError, UsageError
from condu_cli.registry.repository import Registry
from condu_cli.registry.storage import measure
from condu_cli.workflows.opening.paradigms import LoraRequest, lora_options, summary_of
from condu_cli.workflows.opening.workspace import Workspace, new_config, trained_part
from condu_cli.workflows.sessions.coding import codec_for
from condu_cli.workflows.sessions.trained_experts import check_delta
from condu_cli.workflows.sessions.verification import verify
from condu_cli.workflows.transfers.archiving import export_registry, import_registry
from condu_cli.workflows.transfers.exporting import export_adapter, export_expert
from condu_cli.workflows.transfers.importing import Importer, ImportRequest


@pytest.fixture
def workspace(tmp_path):
    return Workspace(made_registry(tmp_path / "lora", "warm"))


@pytest.fixture
def pixels():
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def expert_of(workspace, task="warm"):
    session = workspace.head()
    return workspace.expert(session, session.entry(task))


def imported(path, weights, task="again", **values):
    return Importer(path, ImportRequest(task=task, weights=weights, **values)).plan().run()


# The configuration


def test_the_registry_names_layers_and_proves_its_initialisation():
    options = lora_config(rank=3).method_options
    assert options["rank"] == 3
    assert options["alpha"] == 3.0
    assert len(options["targets"]) == 4
    assert len(options["initial_sha256"]) == 64
    assert options == lora_config(rank=3).method_options
    assert options["initial_sha256"] != lora_config(rank=3, seed=1).method_options["initial_sha256"]


def test_without_a_word_the_base_models_own_choice_counts():
    summary = summary_of(new_config(load_base("tiny"), "lora"))
    assert (summary.method, summary.rank, summary.alpha) == ("lora", 4, 4.0)
    assert (summary.layers, summary.freeze_a) == (4, False)
    assert summary.parameters == 4 * (2 * (32 + 128) + 2 * (16 + 64))


@pytest.mark.parametrize("train", ["whole", "image", "text"])
def test_each_choice_of_towers_has_its_factors(train):
    base, config = load_base("tiny"), lora_config(train)
    model = trained_part(base, config)
    assert [p.name for p in config.parameters] == list(model.trainable_parameters())
    towers = {p.name.startswith("visual.") for p in config.parameters}
    assert towers == {"whole": {True, False}, "image": {True}, "text": {False}}[train]
    full = new_config(base, train=train)
    assert config.model_parameter_count == full.parameter_count == full.model_parameter_count


def test_the_full_method_has_no_options():
    config = new_config(load_base("tiny"))
    assert (config.method, config.method_options) == ("full", {})
    with pytest.raises(UsageError, match="'full' has no options"):
        new_config(load_base("tiny"), lora=LoraRequest())
    with pytest.raises(UsageError, match="is unknown"):
        new_config(load_base("tiny"), "prompt")


@pytest.mark.parametrize(
    "option",
    [{"rank": 4}, {"alpha": 1.0}, {"targets": ["*"]}, {"freeze_a": True}, {"seed": 0}],
)
def test_loras_options_beside_full_fine_tuning_are_refused(option):
    with pytest.raises(UsageError, match="is a LoRA option, but the method is full") as caught:
        lora_options("full", **option)
    assert "--method lora" in hint_of(caught.value)
    assert lora_options("lora", **option) is not None


def test_full_fine_tuning_needs_no_options():
    assert lora_options("full") is None


@pytest.mark.parametrize("values", [{"rank": 5000}, {"alpha": -1.0}, {"seed": -1}])
def test_a_value_out_of_range_is_refused(values):
    with pytest.raises(UsageError, match=r"^LoRA: "):
        lora_config(**values)


def test_another_initialisation_than_recorded_is_refused():
    config = lora_config()
    other = {**config.method_options, "seed": 1}
    with pytest.raises(BaseModelError, match="initialisation of this registry"):
        trained_part(load_base("tiny"), replace(config, method_options=other))


def test_options_that_condu_never_wrote_are_an_integrity_error():
    config = lora_config()
    with pytest.raises(IntegrityError, match="rank must be an integer"):
        trained_part(
            load_base("tiny"),
            replace(config, method_options={**config.method_options, "rank": "4"}),
        )
    with pytest.raises(IntegrityError, match="'prompt' is unknown"):
        trained_part(load_base("tiny"), replace(config, method="prompt", method_options={}))


# Experts


def test_one_task_decouples_to_what_was_committed(workspace):
    delta = made_delta(workspace.registry.config, 0)
    expert, base = weights_of(expert_of(workspace)), weights_of(workspace.base)
    for name, values in delta.items():
        assert np.array_equal(expert[name], base[name] + values)


def test_the_answering_weights_are_merged_from_the_factors(workspace, tmp_path):
    expert, base = expert_of(workspace), load_base("tiny")
    layer = "visual.transformer.resblocks.0.mlp.c_fc"
    a, b = (torch.from_numpy(weights_of(expert)[f"{layer}.lora_{x}.weight"]) for x in "AB")
    merged = base.clip.get_parameter(f"{layer}.weight") + b @ a
    assert torch.allclose(expert.clip.get_parameter(f"{layer}.weight"), merged, atol=1e-6)


def test_every_task_still_answers_after_others(tmp_path, pixels):
    workspace = Workspace(made_registry(tmp_path / "lora", "one", "two", "three"))
    with torch.inference_mode():
        first = expert_of(workspace, "one").encode_images(pixels)
        other = expert_of(workspace, "two").encode_images(pixels)
        again = expert_of(workspace, "one").encode_images(pixels)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert verify(workspace.registry).problems == ()


@one_in(5)
@given(seeds=st.lists(st.integers(0, 10**6), min_size=1, max_size=4, unique=True))
def test_unified_factors_keep_sign_and_norm(seeds):
    config = LORA_CONFIG
    codec = codec_for(config)
    state = EMPTY
    for seed in seeds:
        state = codec.encode(state, made_delta(config, seed))
    for seed, part in zip(seeds, state.parts, strict=True):
        original = made_delta(config, seed)
        found = {name: np.array(values) for name, values in codec.decode(state.shared, part)}
        assert all(np.all(found[name] * original[name] >= 0) for name in original)
        norm = sum(np.abs(values).sum(dtype=np.float64) for values in original.values())
        kept = sum(np.abs(values).sum(dtype=np.float64) for values in found.values())
        assert kept == pytest.approx(norm, rel=1e-4)
        if len(seeds) == 1:
            assert all(np.array_equal(found[name], original[name]) for name in original)


LORA_CONFIG = lora_config()


def test_answering_imports_no_peft(tmp_path, make_pictures):
    """Training does; predictions should not wait the two seconds."""
    made_registry(tmp_path / "registry", "warm", "cold")
    picture = next(make_pictures(tmp_path / "colours", CLASSES, 1, 32).rglob("*.png"))
    code = (
        "import sys\n"
        "from condu_cli.main import main\n"
        "for named in (['--task', 'warm'], []):\n"
        "    try:\n"
        "        main([*sys.argv[1:], *named])\n"
        "    except SystemExit as done:\n"
        "        print(done.code, 'torch' in sys.modules, 'peft' in sys.modules)\n"
    )
    arguments = ["predict", str(picture), "--registry", str(tmp_path / "registry"), "--json"]
    run = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True
    )
    named, left, unnamed, left_again = run.stdout.splitlines()
    for answer in (named, unnamed):
        assert json.loads(answer)["label"] in CLASSES, run.stderr
    assert left == left_again == "0 True False"


# Storage


def test_full_checkpoints_are_counted_in_parameters_of_the_model(workspace):
    found = measure(workspace.registry)
    full = new_config(load_base("tiny"))
    assert found.base_bytes == 4 * full.parameter_count
    assert found.individual_ft_bytes == 4 * full.parameter_count
    assert found.parameters == workspace.registry.config.parameter_count
    assert found.unified_bytes < found.base_bytes / 50


# Export


def test_a_whole_registry_travels(workspace, tmp_path):
    export_registry(workspace.registry, tmp_path / "all.condu", overwrite=False)
    import_registry(tmp_path / "all.condu", tmp_path / "there", None)
    there = Registry.open(tmp_path / "there")
    assert there.config == workspace.registry.config
    assert there.head() == workspace.registry.head()


def test_an_exported_expert_is_an_ordinary_merged_checkpoint(workspace, tmp_path, pixels):
    session = workspace.head()
    export_expert(workspace, session, "warm", tmp_path / "warm.safetensors")
    weights = load_file(tmp_path / "warm.safetensors")
    plain = load_base("tiny").expert_copy()
    assert weights.keys() == plain.clip.state_dict().keys()
    plain.clip.load_state_dict(weights)
    with torch.inference_mode():
        ours = expert_of(workspace).encode_images(pixels)
        assert torch.equal(plain.encode_images(pixels), ours)


@pytest.mark.parametrize("train", ["whole", "text"])
@pytest.mark.parametrize("freeze_a", [False, True])
def test_peft_loads_an_exported_adapter(tmp_path, pixels, train, freeze_a):
    import peft

    registry = made_registry(tmp_path / "lora", "warm", train=train, freeze_a=freeze_a, alpha=8.0)
    workspace = Workspace(registry)
    summary = export_adapter(workspace, workspace.head(), "warm", tmp_path / "adapter")
    assert summary.bytes == sum(p.stat().st_size for p in (tmp_path / "adapter").iterdir())
    assert {p.name for p in (tmp_path / "adapter").iterdir()} == {ADAPTER_CONFIG, ADAPTER_WEIGHTS}
    library = load_base("tiny").expert_copy().clip
    loaded = peft.PeftModel.from_pretrained(library, tmp_path / "adapter")
    expert = expert_of(workspace)
    ids = expert.tokenize(["a cat"])["ids"]
    with torch.inference_mode():
        theirs, ours = loaded.base_model.model, expert.clip
        assert torch.allclose(theirs.encode_image(pixels), ours.encode_image(pixels), atol=1e-5)
        assert torch.allclose(theirs.encode_text(ids), ours.encode_text(ids), atol=1e-5)
        base = load_base("tiny").clip.encode_text(ids)
        assert not torch.allclose(theirs.encode_text(ids), base, atol=1e-3)


def test_an_adapter_is_overwritten_only_when_asked(workspace, tmp_path):
    folder, session = tmp_path / "adapter", workspace.head()
    export_adapter(workspace, session, "warm", folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(UsageError, match="already exists"):
        export_adapter(workspace, session, "warm", folder)
    export_adapter(workspace, session, "warm", folder, overwrite=True)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    (folder / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="other files"):
        export_adapter(workspace, session, "warm", folder, overwrite=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["adapter", "lora"]


def test_a_full_registry_has_no_adapters(tmp_path):
    registry = Registry.create(tmp_path / "full", new_config(load_base("tiny")))
    commit(registry, "warm", 0)
    workspace = Workspace(registry)
    with pytest.raises(UsageError, match="fully fine-tuned") as caught:
        export_adapter(workspace, workspace.head(), "warm", tmp_path / "adapter")
    assert "--method lora" in hint_of(caught.value)
    assert not (tmp_path / "adapter").exists()


# Import


@pytest.mark.parametrize("freeze_a", [False, True])
def test_an_exported_adapter_is_restored_with_the_same_bits(tmp_path, freeze_a):
    one = Workspace(made_registry(tmp_path / "one", "warm", freeze_a=freeze_a))
    export_adapter(one, one.head(), "warm", tmp_path / "adapter")
    Registry.create(tmp_path / "two", lora_config(freeze_a=freeze_a))
    summary = imported(tmp_path / "two", tmp_path / "adapter")
    assert summary.classes == 2
    assert summary.imported_from == "adapter"
    assert 0 < summary.distance < 5
    two = Workspace(Registry.open(tmp_path / "two"))
    ours, theirs = weights_of(expert_of(two, "again")), weights_of(expert_of(one))
    assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)
    merged = expert_of(two, "again").clip.state_dict()
    assert all(torch.equal(merged[n], t) for n, t in expert_of(one).clip.state_dict().items())


def test_an_adapter_that_peft_trained_and_saved_is_imported(tmp_path):
    """Without condu's note: from PEFT's files alone, with a different A."""
    import peft

    config = lora_config()
    library = load_base("tiny").expert_copy().clip
    settings = peft.LoraConfig(r=4, lora_alpha=4, target_modules=["c_fc", "c_proj"])
    adapted = peft.get_peft_model(library, settings)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.02)
    adapted.save_pretrained(tmp_path / "theirs")
    Registry.create(tmp_path / "two", config)
    names = tmp_path / "names.txt"
    names.write_text("blue\nred\n")
    imported(tmp_path / "two", tmp_path / "theirs", class_names=names)
    expert = expert_of(Workspace(Registry.open(tmp_path / "two")), "again")
    pixels = torch.rand(2, 3, 32, 32)
    with torch.inference_mode():
        theirs = adapted.base_model.model.encode_image(pixels)
        assert torch.allclose(expert.clip.encode_image(pixels), theirs, atol=1e-5)


def test_a_checkpoint_is_refused_by_a_lora_registry(workspace, tmp_path):
    export_expert(workspace, workspace.head(), "warm", tmp_path / "warm.safetensors")
    with pytest.raises(UsageError, match="the registry holds LoRA experts") as caught:
        imported(tmp_path / "lora", tmp_path / "warm.safetensors")
    assert "\n" not in caught.value.message
    assert ADAPTER_CONFIG in hint_of(caught.value)
    with pytest.raises(DataError, match="no such file"):
        imported(tmp_path / "lora", tmp_path / "nothing.safetensors")


@pytest.mark.parametrize("there", [True, False])
def test_an_adapter_is_refused_by_a_full_registry(workspace, tmp_path, there):
    export_adapter(workspace, workspace.head(), "warm", tmp_path / "adapter")
    if there:
        Registry.create(tmp_path / "full", new_config(load_base("tiny")))
    with pytest.raises(UsageError, match="holds fully fine-tuned experts") as caught:
        imported(tmp_path / "full", tmp_path / "adapter")
    assert "condu init --method lora" in hint_of(caught.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rank": 3}, r"rank 4 and alpha 4, but the registry has rank 3 and alpha 3"),
        ({"alpha": 8.0}, r"alpha 4, but the registry has rank 4 and alpha 8"),
        (
            {"targets": ("*.c_fc",)},
            r"has factors other than those of the registry's layers: .*c_proj",
        ),
        ({"train": "text"}, r"has factors other than those of .*visual"),
        ({"freeze_a": True, "seed": 5}, r"trained with other A factors"),
    ],
)
def test_an_adapter_of_another_shape_is_refused(workspace, tmp_path, values, message):
    export_adapter(workspace, workspace.head(), "warm", tmp_path / "adapter")
    Registry.create(tmp_path / "two", lora_config(**values))
    with pytest.raises(UsageError, match=message):
        imported(tmp_path / "two", tmp_path / "adapter")


def change_config(folder, **values):
    config = json.loads((folder / ADAPTER_CONFIG).read_text())
    (folder / ADAPTER_CONFIG).write_text(json.dumps({**config, **values}))


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({"peft_type": "LOHA"}, UsageError, "not a LoRA adapter but LOHA"),
        ({"use_dora": True}, UsageError, "use_dora = True"),
        ({"use_rslora": True}, UsageError, "use_rslora = True"),
        ({"bias": "all"}, UsageError, "bias = all"),
        ({"rank_pattern": {"c_fc": 8}}, UsageError, "rank_pattern"),
        ({"init_lora_weights": "pissa"}, UsageError, "init_lora_weights = pissa"),
        ({"init_lora_weights": "pissa_niter_4"}, UsageError, "init_lora_weights = pissa_niter_4"),
        ({"init_lora_weights": "olora"}, UsageError, "init_lora_weights = olora"),
        ({"layer_replication": [[0, 2]]}, UsageError, "layer_replication"),
        ({"target_parameters": ["positional_embedding"]}, UsageError, "target_parameters"),
        ({"trainable_token_indices": [1]}, UsageError, "trainable_token_indices"),
        ({"an_option_of_tomorrow": True}, UsageError, "an_option_of_tomorrow = True"),
    ],
)
def test_an_adapter_that_means_something_else_is_refused(
    workspace, tmp_path, values, error, message
):
    export_adapter(workspace, workspace.head(), "warm", tmp_path / "adapter")
    change_config(tmp_path / "adapter", **values)
    with pytest.raises(error, match=message):
        imported(tmp_path / "lora", tmp_path / "adapter")


@pytest.mark.parametrize(
    "values",
    [
        {"init_lora_weights": "gaussian", "lora_dropout": 0.1, "inference_mode": False},
        {"task_type": "FEATURE_EXTRACTION", "peft_version": "9.9", "revision": "main"},
        {"an_option_of_tomorrow": None, "another": {}, "use_dora": None, "bias": "none"},
    ],
)
def test_options_that_change_nothing_are_accepted(workspace, tmp_path, values):
    export_adapter(workspace, workspace.head(), "warm", tmp_path / "adapter")
    change_config(tmp_path / "adapter", **values)
    imported(tmp_path / "lora", tmp_path / "adapter")


@pytest.mark.parametrize("scheme", [True, False, "gaussian"])
def test_peft_writes_no_option_that_is_refused_without_being_used(tmp_path, scheme):
    import peft

    settings = peft.LoraConfig(r=4, target_modules=["c_fc"], init_lora_weights=scheme)
    settings.save_pretrained(tmp_path)
    with pytest.raises(DataError, match=f"has no {ADAPTER_WEIGHTS}"):  # the options are fine
        read_adapter(tmp_path)


@pytest.fixture
def without_note(workspace, tmp_path):
    """An adapter as PEFT would have saved it, and a file of class names."""
    folder = tmp_path / "adapter"
    export_adapter(workspace, workspace.head(), "warm", folder)
    save_file(load_file(folder / ADAPTER_WEIGHTS), folder / ADAPTER_WEIGHTS)
    names = tmp_path / "names.txt"
    names.write_text("blue\nred\n")
    return folder, names


def test_an_adapter_that_is_absurdly_far_away_is_refused(without_note, tmp_path):
    folder, names = without_note
    sound = load_file(folder / ADAPTER_WEIGHTS)
    far = {n: t + 50 if "lora_B" in n else t for n, t in sound.items()}
    save_file(far, folder / ADAPTER_WEIGHTS)
    with pytest.raises(BaseModelError, match=r"at most 0\.5 is plausible"):
        imported(tmp_path / "lora", folder, class_names=names)


@pytest.mark.parametrize(
    ("named", "said"),
    [
        (None, ""),
        ("", ""),
        ("tiny", ""),
        ("condu-tiny", ""),
        ("openai/clip-vit-base-patch16", "trained on 'openai/clip-vit-base-patch16'"),
        ("/data/base.safetensors", "trained on '/data/base.safetensors'"),
    ],
)
def test_the_base_model_of_an_adapter_is_looked_at(without_note, tmp_path, named, said):
    folder, names = without_note
    change_config(folder, base_model_name_or_path=named)
    summary = imported(tmp_path / "lora", folder, class_names=names)
    told = [line for line in summary.warnings if "trained on" in line]
    assert [said in line for line in told] == ([True] if said else [])


@pytest.mark.parametrize("named", ["mini", "ViT-B-16:openai", "ViT-B-16-quickgelu:openai"])
def test_an_adapter_of_another_base_model_is_refused_by_name(without_note, tmp_path, named):
    folder, names = without_note
    change_config(folder, base_model_name_or_path=named)
    with pytest.raises(BaseModelError, match=f"base model {named}, not on tiny"):
        imported(tmp_path / "lora", folder, class_names=names)


def test_a_corrupt_adapter_is_a_data_error(workspace, tmp_path):
    folder = tmp_path / "adapter"
    export_adapter(workspace, workspace.head(), "warm", folder)
    sound = load_file(folder / ADAPTER_WEIGHTS)
    name = next(iter(sound))
    save_file({**sound, name: torch.full_like(sound[name], float("nan"))}, folder / ADAPTER_WEIGHTS)
    names = tmp_path / "names.txt"
    names.write_text("blue\nred\n")
    with pytest.raises(DataError, match="NaN"):
        imported(tmp_path / "lora", folder, class_names=names)
    (folder / ADAPTER_WEIGHTS).unlink()
    with pytest.raises(DataError, match=f"has no {ADAPTER_WEIGHTS}"):
        imported(tmp_path / "lora", folder)
    (folder / ADAPTER_CONFIG).write_text("{")
    with pytest.raises(DataError, match="cannot be read"):
        imported(tmp_path / "lora", folder)


def test_an_adapter_of_the_wrong_rank_in_its_tensors_is_refused(workspace, tmp_path):
    folder = tmp_path / "adapter"
    export_adapter(workspace, workspace.head(), "warm", folder)
    sound = load_file(folder / ADAPTER_WEIGHTS)
    name = next(name for name in sound if "lora_A" in name)
    save_file({**sound, name: sound[name][:2].clone()}, folder / ADAPTER_WEIGHTS)
    names = tmp_path / "names.txt"
    names.write_text("blue\nred\n")
    with pytest.raises(UsageError, match="has shape"):
        imported(tmp_path / "lora", folder, class_names=names)


# Training


def test_a_short_training_moves_the_factors_and_fits_the_registry(tmp_path, pixels):
    config = lora_config()
    base = trained_part(load_base("tiny"), config)
    expert = base.training_copy()
    optimizer = torch.optim.AdamW(list(expert.trainable_parameters().values()), lr=1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        loss = (expert.encode_images(pixels) @ expert.encode_texts(["a", "b"]).T).square().sum()
        loss.backward()
        optimizer.step()
    delta = delta_of(base, expert)
    assert list(delta) == [p.name for p in config.parameters]
    check_delta(config, delta)
    assert all(delta[name].any() for name in delta)
