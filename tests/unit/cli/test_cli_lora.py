"""LoRA on the command line: chosen at `init`, named by `show`, exported for PEFT."""

import json

import pytest
from lora_registries import commit, made_registry
from safetensors.torch import load_file

from condu_cli.backbone.base_models import load_base
from condu_cli.registry.repository import Registry


@pytest.fixture
def lora(tmp_path):
    """A LoRA registry in the default place with one task, `warm`."""
    return made_registry(tmp_path / "registry", "warm")


def test_init_says_the_method_the_rank_and_how_much_is_trained(condu):
    ran = condu("init", "--base", "tiny", "--method", "lora", "--rank", 3)
    assert ran.code == 0, ran.err
    line = "base model tiny, LoRA of rank 3, alpha 3 in 4 layers, 1,440 trainable parameters"
    assert line in ran.out


def test_init_says_that_all_is_fine_tuned(condu):
    ran = condu("init", "--base", "tiny", "--dry-run")
    assert "base model tiny, full fine-tuning, 0.8 M trainable parameters" in ran.out


def test_init_keeps_every_option(condu, tmp_path):
    ran = condu(
        "init", "--base", "tiny", "--method", "lora", "--alpha", 8, "--freeze-a", "--lora-seed", 5,
        "--lora-targets", "*.c_fc", "--lora-targets", "transformer.*.c_proj", "--train", "text",
        "--json",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    found = json.loads(ran.out)
    options = found["method_options"]
    assert found["method"] == "lora"
    assert (options["rank"], options["alpha"]) == (4, 8.0)
    assert (options["freeze_a"], options["seed"]) == (True, 5)
    assert options["targets"] == [
        "transformer.resblocks.0.mlp.c_fc",
        "transformer.resblocks.0.mlp.c_proj",
    ]
    assert Registry.open(tmp_path / "registry").config.method_options == options


@pytest.mark.parametrize(
    "option",
    [
        ("--rank", 4),
        ("--alpha", 4),
        ("--freeze-a",),
        ("--lora-targets", "*"),
        ("--lora-seed", 0),
    ],
)
def test_an_option_of_lora_without_lora_is_refused(condu, tmp_path, option):
    ran = condu("init", "--base", "tiny", *option)
    assert ran.code == 2
    assert f"{option[0]} is a LoRA option, but the method is full" in ran.err
    assert "--method lora" in ran.err
    assert not (tmp_path / "registry").exists()


def test_a_pattern_without_a_layer_names_some_that_exist(condu):
    ran = condu("init", "--base", "tiny", "--method", "lora", "--lora-targets", "*.gate")
    assert ran.code == 2
    assert "'*.gate'" in ran.err
    assert "visual.transformer.resblocks.0.mlp.c_fc" in ran.err


@pytest.mark.usefixtures("lora")
def test_show_names_the_method_of_a_task(condu):
    assert "LoRA of rank 4, alpha 4 in 4 layers, 1,920 trainable" in condu("show", "warm").out
    assert json.loads(condu("show", "warm", "--json").out)["method"] == {
        "method": "lora",
        "parameters": 1920,
        "rank": 4,
        "alpha": 4.0,
        "freeze_a": False,
        "layers": 4,
    }


def test_show_names_the_classifier_of_an_expert(condu, lora):
    commit(lora, "headed", 1, with_head=True)
    for task, answer in (("warm", "class texts"), ("headed", "a head beside the model")):
        assert f"classifier        {answer}" in condu("show", task).out.splitlines()


@pytest.mark.usefixtures("lora")
def test_the_storage_report_compares_with_whole_checkpoints(condu):
    full = sum(p.numel() for p in load_base("tiny").model_parameters().values())
    found = json.loads(condu("storage-report", "--json").out)
    assert found["individual_ft_bytes"] == found["base_bytes"] == 4 * full
    assert found["parameters"] == 1920


def test_an_adapter_is_exported_and_imported(condu, lora, tmp_path):
    folder = tmp_path / "adapter"
    ran = condu("export", "--task", "warm", "--format", "peft", "-o", folder)
    assert ran.code == 0, ran.err
    assert f'peft.PeftModel.from_pretrained(model, "{folder}")' in ran.out
    assert sorted(path.name for path in folder.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    assert condu("export", "--task", "warm", "--format", "peft", "-o", folder).code == 2
    ran = condu("import", "--task", "again", "--weights", folder, "--json")
    assert ran.code == 0, ran.err
    assert [task["task"] for task in json.loads(condu("ls", "--json").out)] == ["warm", "again"]


@pytest.mark.parametrize(
    ("form", "second"),
    [
        ((), "first.head.safetensors"),
        (("--format", "peft"), "first.safetensors/adapter_head.safetensors"),
    ],
)
def test_a_head_beside_an_expert_makes_the_round_trip(condu, tmp_path, colours, form, second):
    registry = made_registry(tmp_path / "registry")
    commit(registry, "warm", 0, with_head=True)
    other = tmp_path / "other"
    if form:
        made_registry(other)
    else:  # a merged expert has not been trimmed before
        assert condu("init", "--base", "tiny", "--trim", 0, "--registry", other).code == 0
    first, again = tmp_path / "first.safetensors", tmp_path / "again.safetensors"
    ran = condu("export", "--task", "warm", *form, "-o", first)
    assert ran.code == 0, ran.err
    assert f"and its head to {tmp_path / second}" in ran.out
    assert (
        f"classifies by class texts: the expert's head, by which condu classifies, is in {tmp_path}"
        in ran.err
    )
    ran = condu("import", "--task", "moved", "--weights", first, "--registry", other)
    assert ran.code == 0, ran.err
    assert f"with the head in {(tmp_path / second).name}" in ran.out
    ran = condu("export", "--task", "moved", *form, "-o", again, "--registry", other)
    assert ran.code == 0, ran.err
    assert _tensors(first) == _tensors(again)
    found = [
        condu("predict", colours, "--task", task, "--registry", path, "--csv").out.replace(task, "")
        for task, path in (("warm", registry.path), ("moved", other))
    ]
    assert found[0] == found[1] != ""


def _tensors(path):
    """The bits of all tensors of an export by its file and name, the head's with the weights'."""
    files = path.iterdir() if path.is_dir() else path.parent.glob(f"{path.stem}*.safetensors")
    files = [file for file in files if file.suffix == ".safetensors"]
    assert len(files) == 2
    return {
        (file.name.removeprefix(path.stem), name): tensor.numpy().tobytes()
        for file in files
        for name, tensor in load_file(file).items()
    }


def test_an_archive_carries_heads(condu, tmp_path, colours):
    registry = made_registry(tmp_path / "registry")
    commit(registry, "warm", 0, with_head=True)
    commit(registry, "bare", 1)
    assert condu("export", "-o", tmp_path / "all.condu").code == 0
    ran = condu("import", tmp_path / "all.condu", "--registry", tmp_path / "other")
    assert ran.code == 0, ran.err
    assert Registry.open(tmp_path / "other").head().entry("warm").expert.head is not None
    for task in ("warm", "bare"):
        found = [
            condu("predict", colours, "--task", task, "--registry", path, "--csv").out
            for path in (registry.path, tmp_path / "other")
        ]
        assert found[0] == found[1] != ""
    assert condu("verify", "--registry", tmp_path / "other").code == 0


@pytest.mark.usefixtures("lora")
def test_the_default_format_is_a_checkpoint_that_a_lora_registry_refuses(condu, tmp_path):
    file = tmp_path / "warm.safetensors"
    assert condu("export", "--task", "warm", "-o", file).code == 0
    ran = condu("import", "--task", "again", "--weights", file)
    assert ran.code == 2
    assert "the registry holds LoRA experts" in ran.err


def test_a_full_registry_exports_no_adapter(condu, tmp_path):
    condu("init", "--base", "tiny")
    commit(Registry.open(tmp_path / "registry"), "warm", 0)
    ran = condu("export", "--task", "warm", "--format", "peft", "-o", tmp_path / "adapter")
    assert ran.code == 2
    assert "fully fine-tuned" in ran.err


@pytest.mark.parametrize("options", [(), ("--base",)])
def test_a_format_belongs_to_one_expert(condu, lora, tmp_path, options):
    ran = condu("export", *options, "--format", "peft", "-o", tmp_path / "adapter")
    assert ran.code == 2
    assert "--format needs --task" in ran.err
