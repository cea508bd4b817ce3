"""Hugging Face's CLIPModel: its folder of files, and its names turned into open_clip's.

DIR/config.json                       which model it is, and its activation
DIR/model.safetensors                 the weights, or pytorch_model.bin
DIR/model.safetensors.index.json      which of several files holds which tensor
DIR/preprocessor_config.json          how pictures are prepared; may be missing
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from condu_cli.backbone.statements import Statement
from condu_cli.backbone.weight_files import HUGGING_FACE_CONFIG, is_hugging_face
from condu_cli.backbone.weights.checkpoints import Checkpoint, read_checkpoint
from condu_cli.disk import json_object
from condu_cli.errors import DataError, UsageError
from condu_cli.preprocessing import Preparation

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from torch import Tensor

WHOLE = ("model.safetensors", "pytorch_model.bin")
INDEX_SUFFIX = ".index.json"
PROCESSOR = "preprocessor_config.json"
JSON_LIMIT = 1 << 24
"""Bytes; an index of 100,000 tensors takes about 10 MB."""
RESAMPLING = {2: "bilinear", 3: "bicubic"}
"""Pillow's numbers, which the processor's configuration uses."""

_LAYER = re.compile(r"(vision|text)_model\.encoder\.layers\.(\d+)\.(.+)\.(weight|bias)")
_IN_LAYER = {
    "self_attn.out_proj": "attn.out_proj",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}
_ATTENTION = tuple(f"self_attn.{part}_proj" for part in "qkv")
_OUTSIDE = {
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.final_layer_norm.weight": "ln_final.weight",
    "text_model.final_layer_norm.bias": "ln_final.bias",
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    "vision_model.pre_layrnorm.weight": "visual.ln_pre.weight",
    "vision_model.pre_layrnorm.bias": "visual.ln_pre.bias",
    "vision_model.post_layernorm.weight": "visual.ln_post.weight",
    "vision_model.post_layernorm.bias": "visual.ln_post.bias",
}
_TRANSPOSED = {
    "visual_projection.weight": "visual.proj",
    "text_projection.weight": "text_projection",
}


def open_clip_names(weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Return Hugging Face's tensors as open_clip's; others are returned unchanged.

    Query, key and value of a layer become one tensor; both projections are transposed.
    """
    prefix = _prefix(weights)
    if prefix is None:
        return weights
    bare = {name.removeprefix(prefix): tensor for name, tensor in weights.items()}
    found: dict[str, Tensor] = {}
    for name, tensor in bare.items():
        layer = _LAYER.fullmatch(name)
        if layer is not None:
            found |= _in_layer(bare, name, *layer.groups())
        elif name in _TRANSPOSED:
            found[_TRANSPOSED[name]] = tensor.T
        else:
            found[_OUTSIDE.get(name, name)] = tensor
    return found


def _prefix(names: Iterable[str]) -> str | None:
    for name in names:
        for tower in ("vision_model.", "text_model."):
            if tower in name:
                return name.partition(tower)[0]
    return None


def _in_layer(
    bare: Mapping[str, Tensor], name: str, tower: str, number: str, part: str, kind: str
) -> dict[str, Tensor]:
    """Return the tensor of a layer under its new name; key and value come with the query."""
    block = f"{'visual.' if tower == 'vision' else ''}transformer.resblocks.{number}"
    if part in _IN_LAYER:
        return {f"{block}.{_IN_LAYER[part]}.{kind}": bare[name]}
    beside = [name.replace(part, other) for other in _ATTENTION]
    shapes = {bare[other].shape if other in bare else None for other in beside}
    if part not in _ATTENTION or len(shapes) > 1 or bare[name].ndim == 0:
        return {name: bare[name]}  # is missed by its new name
    if part != _ATTENTION[0]:
        return {}
    return {f"{block}.attn.in_proj_{kind}": torch.cat([bare[other] for other in beside])}


def read_folder(folder: Path) -> Checkpoint:
    """Read a CLIPModel as `save_pretrained` writes it, all of its files.

    Raises:
        UsageError: it is another kind of model.
        DataError: a file is missing, corrupt, or not what Hugging Face writes.

    """
    config = _json(folder / HUGGING_FACE_CONFIG)
    kind = config.get("model_type")
    if kind != "clip":
        raise UsageError(
            f"{folder}: holds a Hugging Face model of type {kind!r}, not clip",
            reason="not-a-clip-folder",
            path=folder,
        )
    weights: dict[str, Tensor] = {}
    files = tuple(_files(folder))
    for file in files:
        weights |= read_checkpoint(file).weights
    return Checkpoint(folder, weights, statement=_statement(folder, config), files=files)


def stated_beside(file: Path) -> Statement | None:
    """Return what the folder of a CLIPModel states of a file in it; None in any other folder."""
    if not is_hugging_face(file.parent):
        return None
    config = _json(file.parent / HUGGING_FACE_CONFIG)
    return _statement(file.parent, config) if config.get("model_type") == "clip" else None


def _files(folder: Path) -> list[Path]:
    for name in WHOLE:
        if (folder / name).is_file():
            return [folder / name]
        index = folder / f"{name}{INDEX_SUFFIX}"
        if not index.is_file():
            continue
        listed = _json(index).get("weight_map")
        names = sorted(set(map(str, listed.values()))) if isinstance(listed, dict) else []
        if not names or any(Path(file).name != file for file in names):
            raise _unreadable(index, "does not name the files of weights")
        return [folder / file for file in names]
    raise DataError(
        f"{folder}: has no {' and no '.join(WHOLE)}", reason="folder-without-weights", path=folder
    )


def _statement(folder: Path, config: Mapping[str, Any]) -> Statement:
    activations = {_activation(config.get(f"{tower}_config")) for tower in ("vision", "text")}
    activation = " and ".join(sorted(activations))
    if not (folder / PROCESSOR).is_file():
        return Statement(activation)
    processor = _json(folder / PROCESSOR)
    values = _prepared(processor)
    try:
        return Statement(activation, Preparation.from_record(values))
    except ValueError as exc:
        return Statement(activation, remark=f"{PROCESSOR} says something else ({exc})")


def _activation(tower: Any) -> str:
    return str(tower.get("hidden_act", "quick_gelu")) if isinstance(tower, dict) else "quick_gelu"


def _prepared(processor: Mapping[str, Any]) -> dict[str, Any]:
    """Read a processor's configuration as the record of a `Preparation`, valid or not."""
    resample = processor.get("resample", 3)
    plain = not processor.get("do_normalize", True)
    return {
        "mean": [0, 0, 0] if plain else processor.get("image_mean"),
        "std": [1, 1, 1] if plain else processor.get("image_std"),
        "interpolation": RESAMPLING.get(resample) if isinstance(resample, int) else None,
        "resize_mode": "shortest" if processor.get("do_center_crop", True) else "squash",
    }


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json_object(path, JSON_LIMIT)
    except (OSError, ValueError, RecursionError) as exc:
        raise _unreadable(path, f"cannot be read ({exc})") from exc
    if found is None:
        raise _unreadable(path, "is not a JSON object")
    return found


def _unreadable(path: Path, what: str) -> DataError:
    return DataError(f"{path}: {what}", reason="folder-unreadable", path=path)
