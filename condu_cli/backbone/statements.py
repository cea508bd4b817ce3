"""What a local checkpoint says about itself beyond its weights.

Neither weights nor their hash tell the activation and how pictures are prepared. Two places do:
condu's note in a file that it exported, and open_clip's configuration in the same folder.
"""

from __future__ import annotations

import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from condu_cli.backbone.weight_files import METADATA_KEY, SAFE_SUFFIX
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
        BaseModelError: the configuration or the note is corrupt, or states a way of preparing
            pictures that condu does not know.

    """
    note = noted(weights)
    stated = _configured(weights.with_name(CONFIGURATION), usual)
    if note.get("activation") in ACTIVATIONS:
        stated = stated._replace(activation=note["activation"])
    if note.get("preparation") is not None:
        stated = stated._replace(preparation=_preparation(weights, note["preparation"], None))
    return stated


def noted(weights: Path) -> Mapping[str, Any]:
    """Return condu's note in a file of weights; empty if there is none, or it cannot be read."""
    from safetensors import SafetensorError, safe_open

    if weights.suffix != SAFE_SUFFIX:
        return {}
    with suppress(SafetensorError, OSError, ValueError, RecursionError):
        with safe_open(weights, "pt") as file:
            note = json.loads((file.metadata() or {}).get(METADATA_KEY, "{}"))
        if isinstance(note, dict):
            return note
    return {}


def _configured(path: Path, usual: Preparation) -> Statement:
    try:
        with path.open("rb") as file:
            content = file.read(CONFIGURATION_LIMIT + 1)
        found = json.loads(content) if len(content) <= CONFIGURATION_LIMIT else None
    except (FileNotFoundError, NotADirectoryError):
        return NOTHING_STATED
    except (OSError, ValueError, RecursionError) as exc:
        raise _unusable(path, f"cannot be read ({exc})") from exc
    if not isinstance(found, dict):
        raise _unusable(path, "is not a configuration of open_clip")
    model, prepared = found.get("model_cfg"), found.get("preprocess_cfg")
    activation = embedding = None
    if isinstance(model, dict):
        activation = "quick_gelu" if model.get("quick_gelu") else "gelu"
        embedding = model.get("embed_dim") if isinstance(model.get("embed_dim"), int) else None
    preparation = _preparation(path, prepared, usual) if isinstance(prepared, dict) else None
    return Statement(activation, preparation, embedding)


def _preparation(path: Path, record: Any, usual: Preparation | None) -> Preparation:
    """Check a record; with `usual`, values may be missing, and others beside them are ignored."""
    try:
        if usual is not None:
            defaults = usual.to_record()
            given = {name: record.get(name) for name in defaults}
            record = {n: defaults[n] if value is None else value for n, value in given.items()}
        return Preparation.from_record(record)
    except ValueError as exc:
        raise _unusable(path, f"how pictures are prepared: {exc}") from exc


def _unusable(path: Path, what: str) -> BaseModelError:
    return BaseModelError(f"{path}: {what}", reason="configuration-unusable", path=path)
