"""Read and write LoRA experts as PEFT's two files, without PEFT, and a head beside them.

    DIR/adapter_config.json          rank, alpha and target layers
    DIR/adapter_model.safetensors    the factors, with names that begin with `base_model.model.`

`peft.PeftModel.from_pretrained(model, DIR)` applies them to a model loaded by its own library.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import save_file

from condu_cli.backbone.lora.factors import FACTOR_A, FACTOR_B, targets_pattern, update
from condu_cli.backbone.weight_files import (
    ADAPTER_CONFIG,
    ADAPTER_HEAD,
    ADAPTER_WEIGHTS,
    METADATA_KEY,
)
from condu_cli.backbone.weights.checkpoints import Checkpoint, read_checkpoint
from condu_cli.backbone.weights.foreign_experts import (
    ForeignExpert,
    check_note,
    exact_delta,
    finite,
    float32_array,
    refuse_unrelated,
)
from condu_cli.backbone.weights.foreign_names import some, with_known_names
from condu_cli.base_identity import parts_of, without_activation
from condu_cli.disk import (
    contents_of,
    flush_file,
    flush_folder,
    json_object,
    require_parent_folder,
)
from condu_cli.errors import BaseModelError, ConduError, DataError, UsageError, exhausted

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray
    from torch import Tensor

    from condu_cli.backbone.dual_encoder import DualEncoder
    from condu_cli.backbone.lora.factors import Factors
    from condu_cli.backbone.lora.spec import LoraSpec

PREFIX = "base_model.model."
"""PEFT's prefix for the names of a wrapped model."""
CONFIG_LIMIT = 1 << 20
FREE = frozenset(
    {
        *("peft_version", "auto_mapping", "base_model_name_or_path", "revision", "task_type"),
        *("r", "lora_alpha", "target_modules", "exclude_modules", "layers_to_transform"),
        *("layers_pattern", "inference_mode", "lora_dropout", "eva_config", "megatron_core"),
        *("runtime_config", "qalora_group_size"),
    }
)
"""PEFT's options that do not change what the factors mean, or are compared with the registry's.
All others must be unused, known or not: with each new version come more that change the base
weights, or add parameters."""
PLAIN: Mapping[str, tuple[object, ...]] = {
    "peft_type": ("LORA",),
    "bias": ("none",),
    "init_lora_weights": (True, False, None, "gaussian", "eva"),
}
"""Values with which the factors mean scale * B @ A. PiSSA, OLoRA, CorDA, LoftQ and others also
change the base weights, which the adapter does not hold."""


@dataclass(frozen=True, eq=False)
class Adapter:
    """PEFT's two files: the configuration, and the factors with condu's metadata."""

    folder: Path
    checkpoint: Checkpoint
    config: Mapping[str, Any] = field(repr=False)


def refuse_folder(folder: Path, *, overwrite: bool) -> None:
    """Check the target folder of an export, before anything slow happens.

    Raises:
        UsageError: it is a file, has no parent folder, or holds other files.

    """
    require_parent_folder(folder)
    if folder.exists() and not folder.is_dir():
        raise UsageError(
            f"{folder}: is a file, but a PEFT adapter is a folder",
            reason="output-is-file",
            path=folder,
        )
    there = {path.name for path in contents_of(folder)} if folder.exists() else set()
    if there - {ADAPTER_CONFIG, ADAPTER_WEIGHTS, ADAPTER_HEAD}:
        raise UsageError(
            f"{folder}: holds other files than a PEFT adapter's",
            reason="output-holds-other-files",
            path=folder,
        )
    if there and not overwrite:
        raise UsageError(f"{folder}: already exists", reason="output-exists", path=folder)


def write_adapter(
    model: DualEncoder,
    folder: Path,
    metadata: Mapping[str, Any],
    *,
    head: bytes | None = None,
    overwrite: bool = False,
) -> None:
    """Write an expert's factors like PEFT; the same factors give the same bytes.

    `metadata` is stored as in `write_checkpoint`, and so is the content of a `head`, in the folder.
    A new folder appears completely or not at all; with `overwrite`, each of its files does.

    Raises:
        UsageError: the folder cannot be used.
        ConduError: it cannot be written; nothing is left behind.

    """
    refuse_folder(folder, overwrite=overwrite)
    factors = factors_of(model)
    note = json.dumps(dict(metadata), sort_keys=True, separators=(",", ":"), allow_nan=False)
    tensors = {PREFIX + n: t.detach().cpu().contiguous() for n, t in factors.tensors.items()}
    config = json.dumps(_config(factors.spec, str(metadata.get("base", ""))), indent=2)
    try:
        work = Path(tempfile.mkdtemp(prefix=".condu-", dir=folder.parent))
        try:
            draft = work / "adapter"
            draft.mkdir()  # with the mode from the umask
            (draft / ADAPTER_CONFIG).write_text(config + "\n", encoding="utf-8")
            save_file(tensors, draft / ADAPTER_WEIGHTS, {METADATA_KEY: note})
            # safetensors sets 0600
            (draft / ADAPTER_WEIGHTS).chmod((draft / ADAPTER_CONFIG).stat().st_mode)
            if head is not None:
                (draft / ADAPTER_HEAD).write_bytes(head)
            for file in draft.iterdir():
                flush_file(file)
            _move(draft, folder)
        finally:
            shutil.rmtree(work, ignore_errors=True)
        flush_folder(folder)
        flush_folder(folder.parent)
    except (OSError, SafetensorError) as exc:
        reason = getattr(exc, "strerror", None) or exc
        raise ConduError(
            f"{folder}: cannot be written ({reason})", reason="cannot-write-output", path=folder
        ) from exc


def _move(draft: Path, folder: Path) -> None:
    if not folder.exists():
        draft.rename(folder)
        return
    if not (draft / ADAPTER_HEAD).exists():  # then that of another expert goes too
        (folder / ADAPTER_HEAD).unlink(missing_ok=True)
    # The weights last: their note names the head.
    for name in (ADAPTER_HEAD, ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        if (draft / name).exists():
            os.replace(draft / name, folder / name)


def factors_of(model: DualEncoder) -> Factors:
    """Return a model's factors; ValueError if it has none, which is the caller's mistake."""
    if model.factors is None:
        raise ValueError("the model has no LoRA factors")
    return model.factors


def _config(spec: LoraSpec, base: str) -> dict[str, Any]:
    return {
        "base_model_name_or_path": base,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "lora_alpha": int(spec.alpha) if spec.alpha == int(spec.alpha) else spec.alpha,
        "lora_dropout": 0.0,
        "peft_type": "LORA",
        "r": spec.rank,
        "target_modules": targets_pattern(spec),
        "task_type": None,
    }


def read_adapter(folder: Path) -> Adapter:
    """Read PEFT's two files; no code in them is run.

    Raises:
        UsageError: the adapter is not plain LoRA.
        DataError: a file is missing, corrupt, or not what PEFT writes.

    """
    try:
        config = json_object(folder / ADAPTER_CONFIG, CONFIG_LIMIT)
    except (OSError, ValueError, RecursionError) as exc:
        raise exhausted(exc) or DataError(
            f"{folder / ADAPTER_CONFIG}: cannot be read ({exc})",
            reason="adapter-unreadable",
            path=folder / ADAPTER_CONFIG,
        ) from exc
    if config is None:
        raise DataError(
            f"{folder / ADAPTER_CONFIG}: is not a PEFT configuration",
            reason="adapter-unreadable",
            path=folder / ADAPTER_CONFIG,
        )
    _refuse_other_adapters(folder, config)
    if not (folder / ADAPTER_WEIGHTS).is_file():
        raise DataError(
            f"{folder}: has no {ADAPTER_WEIGHTS}", reason="adapter-without-weights", path=folder
        )
    return Adapter(folder, read_checkpoint(folder / ADAPTER_WEIGHTS), config)


def _refuse_other_adapters(folder: Path, config: Mapping[str, Any]) -> None:
    kind = config.get("peft_type")
    if kind != "LORA":
        raise UsageError(
            f"{folder}: is not a LoRA adapter but {kind}", reason="not-plain-lora", path=folder
        )
    for option, value in config.items():
        if option in FREE or value in PLAIN.get(option, ()):
            continue
        if option in PLAIN or value:  # null, false and {} all mean unused
            raise UsageError(
                f"{folder}: was trained with PEFT's {option} = {str(value)[:100]}, which is not "
                "plain LoRA",
                reason="not-plain-lora",
                path=folder,
            )


def adapter_delta(base: DualEncoder, adapter: Adapter) -> ForeignExpert:
    """Return an adapter's factors minus the registry's initial factors, float32.

    `distance` is measured on the merged weights: ||scale * B @ A|| / ||W|| over the target layers.

    Raises:
        UsageError: rank, alpha or layers differ from the registry's, or A differs in a registry
            that does not train A.
        BaseModelError: condu's metadata or PEFT's configuration names another base model, or the
            adapter is implausibly far from it.
        DataError: NaN or infinity.

    """
    factors, checkpoint = factors_of(base), adapter.checkpoint
    check_note(base, checkpoint)
    _check_config(factors.spec, adapter)
    weights = with_known_names(base, _without_prefix(checkpoint.weights))
    _check_factors(factors, weights, adapter)
    values = {n: finite(n, float32_array(weights[n]), checkpoint) for n in factors.tensors}
    start = {n: float32_array(tensor) for n, tensor in factors.tensors.items()}
    _check_frozen(factors, values, start, adapter)
    delta = {
        name: finite(name, exact_delta(start[name], values[name]), checkpoint)
        for name in base.trainable_parameters()
    }
    distance = _distance(factors, weights)
    refuse_unrelated(base, checkpoint, distance)
    told = list(_other_base_named(base, adapter))
    if not checkpoint.metadata.get("head") and not any(d.any() for d in delta.values()):
        told.append(LEARNED_NOTHING)
    return ForeignExpert(delta, distance, tuple(told))


LEARNED_NOTHING = "every factor has its initial value: this expert has learned nothing"


def _other_base_named(base: DualEncoder, adapter: Adapter) -> tuple[str, ...]:
    """Compare the base model that PEFT's configuration names, if condu's note does not say more."""
    named = adapter.config.get("base_model_name_or_path")
    info = base.info
    if adapter.checkpoint.metadata or not isinstance(named, str) or not named:
        return ()
    if _bare(named) in {_bare(info.id), _bare(info.architecture), info.pretrained}:
        return ()
    if _is_pretrained(named) and _is_pretrained(info.id):
        raise BaseModelError(
            f"{adapter.folder}: was trained on base model {named}, not on {info.id}",
            reason="checkpoint-of-other-base",
            path=adapter.folder,
            base=info.id,
            found=named,
        )
    return (
        f"the adapter was trained on '{named}'; if that is not the registry's base model "
        f"{info.id}, its answers are worthless",
    )


def _bare(base_id: str) -> str:
    architecture, colon, pretrained = parts_of(base_id)
    return without_activation(architecture) + colon + pretrained


def _is_pretrained(base_id: str) -> bool:
    """Return whether a name stands for certain weights on every machine."""
    import open_clip

    architecture, _, tag = parts_of(base_id)
    known = bool(tag) and bool(open_clip.get_pretrained_cfg(architecture, tag))
    return known or base_id in ("mini", "tiny")


def _without_prefix(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(PREFIX): tensor for name, tensor in weights.items()}


def _check_config(spec: LoraSpec, adapter: Adapter) -> None:
    found = (adapter.config.get("r"), adapter.config.get("lora_alpha"))
    if found != (spec.rank, spec.alpha):
        raise UsageError(
            f"{adapter.folder}: has rank {found[0]} and alpha {found[1]}, but the registry has "
            f"rank {spec.rank} and alpha {spec.alpha:g}",
            reason="adapter-of-other-rank",
            path=adapter.folder,
            rank=found[0],
            alpha=found[1],
        )


def _check_factors(factors: Factors, weights: Mapping[str, Tensor], adapter: Adapter) -> None:
    missing = [name for name in factors.tensors if name not in weights]
    unknown = [name for name in weights if name not in factors.tensors]
    for names, what in (
        (missing, "has no factors of"),
        (unknown, "has factors other than those of"),
    ):
        if names:
            raise UsageError(
                f"{adapter.folder}: {what} the registry's layers: {some(names)}",
                reason="adapter-of-other-layers",
                path=adapter.folder,
            )
    for name, ours in factors.tensors.items():
        if weights[name].shape != ours.shape:
            raise UsageError(
                f"{adapter.folder}: {name} has shape {tuple(weights[name].shape)}, but "
                f"{tuple(ours.shape)} in the registry",
                reason="adapter-of-other-shapes",
                path=adapter.folder,
                tensor=name,
            )
        if not weights[name].is_floating_point():
            raise DataError(
                f"{adapter.folder}: {name} is not a tensor of floats",
                reason="adapter-unreadable",
                path=adapter.folder,
            )


def _check_frozen(
    factors: Factors,
    values: Mapping[str, NDArray[np.float32]],
    start: Mapping[str, NDArray[np.float32]],
    adapter: Adapter,
) -> None:
    if not factors.spec.freeze_a:
        return
    other = [n for n in values if n.endswith(FACTOR_A) and not np.array_equal(values[n], start[n])]
    if other:
        raise UsageError(
            f"{adapter.folder}: was trained with other A factors than the "
            f"registry's, which are frozen: {some(other)}",
            reason="adapter-of-other-factors",
            path=adapter.folder,
        )


def _distance(factors: Factors, weights: Mapping[str, Tensor]) -> float:
    moved = norm = 0.0
    for layer, pristine in factors.pristine.weights.items():
        a, b = (weights[layer + end].detach().cpu().float() for end in (FACTOR_A, FACTOR_B))
        moved += float(update(a, b, factors.spec.scale).double().square().sum())
        norm += float(pristine.cpu().double().square().sum())
    return float(np.sqrt(moved / norm)) if norm else 0.0
