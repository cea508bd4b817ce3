"""What a local checkpoint says about itself beyond its weights.

Neither weights nor their hash tell the activation and how pictures are prepared. Two places do:
condu's note in a file that it exported, and open_clip's configuration in the same folder.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from condu_cli.backbone.weight_files import METADATA_KEY, SAFE_SUFFIX
from condu_cli.disk import json_object
from condu_cli.errors import BaseModelError
from condu_cli.preprocessing import Preparation

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

CONFIGURATION = "open_clip_config.json"
"""The name that open_clip gives a model's configuration, on the hub and in a local folder."""
CONFIGURATION_LIMIT = 1 << 20
ACTIVATIONS = ("gelu", "quick_gelu")
"""Those of open_clip's models, in the words of a base model's identity."""


class Statement(NamedTuple):
    """What is stated; None where nothing is.

    `embedding` is the width of the embedding; `remark` names a preparation that condu cannot use.
    """

    activation: str | None = None
    preparation: Preparation | None = None
    embedding: int | None = None
    remark: str | None = None


NOTHING_STATED = Statement()


def statement_of(weights: Path, usual: Preparation) -> Statement:
    """Read what a checkpoint states; condu's note comes first, since it is about this very file.

    `usual` is what open_clip takes for values that its configuration leaves out.

    Raises:
        BaseModelError: the configuration is corrupt, or it or the note states a way of preparing
            pictures that condu does not know. A note that cannot be read states nothing.

    """
    note = _noted(weights)
    stated = _configured(weights.with_name(CONFIGURATION), usual)
    if note.get("activation") in ACTIVATIONS:
        stated = stated._replace(activation=note["activation"])
    try:
        return stated._replace(preparation=noted_preparation(note) or stated.preparation)
    except ValueError as exc:
        raise _unusable(weights, f"how pictures are prepared: {exc}") from exc


def noted_preparation(note: Mapping[str, Any]) -> Preparation | None:
    """Return how a note of condu says that pictures are prepared; None in an older one.

    Raises:
        ValueError: what it says is not what condu writes.

    """
    record = note.get("preparation")
    return None if record is None else Preparation.from_record(record)


def note_text(weights: Path) -> str | None:
    """Return the text of condu's note in a .safetensors file, None if there is none.

    Raises:
        SafetensorError, OSError: the file cannot be read.

    """
    from safetensors import safe_open

    with safe_open(weights, "pt") as file:
        return (file.metadata() or {}).get(METADATA_KEY)


def _noted(weights: Path) -> Mapping[str, Any]:
    """Return condu's note in a file of weights; empty if there is none, or it cannot be read."""
    from safetensors import SafetensorError

    if weights.suffix != SAFE_SUFFIX:
        return {}
    with suppress(SafetensorError, OSError, ValueError, RecursionError):
        note = json.loads(note_text(weights) or "{}")
        if isinstance(note, dict):
            return note
    return {}


def _configured(path: Path, usual: Preparation) -> Statement:
    try:
        found = json_object(path, CONFIGURATION_LIMIT)
    except (FileNotFoundError, NotADirectoryError):
        return NOTHING_STATED
    except (OSError, ValueError, RecursionError) as exc:
        raise _unusable(path, f"cannot be read ({exc})") from exc
    if found is None:
        raise _unusable(path, "is not a configuration of open_clip")
    model, prepared = found.get("model_cfg"), found.get("preprocess_cfg")
    activation = embedding = None
    if isinstance(model, dict):
        activation = "quick_gelu" if model.get("quick_gelu") else "gelu"
        embedding = model.get("embed_dim") if isinstance(model.get("embed_dim"), int) else None
    if not isinstance(prepared, dict):
        return Statement(activation, None, embedding)
    given = {name: prepared.get(name) for name in Preparation.__dataclass_fields__}
    try:
        preparation = replace(usual, **{n: v for n, v in given.items() if v is not None})
    except ValueError as exc:
        raise _unusable(path, f"how pictures are prepared: {exc}") from exc
    return Statement(activation, preparation, embedding)


def _unusable(path: Path, what: str) -> BaseModelError:
    return BaseModelError(f"{path}: {what}", reason="configuration-unusable", path=path)
