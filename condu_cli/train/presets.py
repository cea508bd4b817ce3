"""Preset recipes: the paper's for CLIP, measured ones for `mini`.

A preset depends on the kind of base model, the method and, for the paper's data sets, the task.
`condu learn --task NAME` follows it; every value can be overridden separately.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any

from condu_cli.data.sources.known_tasks import public_set
from condu_cli.train.recipe import Recipe

FEW_SHOTS = 16
"""Up to this many pictures per class count as few-shot, as in the usual protocols."""


@dataclass(frozen=True)
class Preset:
    """Recipe values by the names of `Recipe`'s fields, and their source.

    `warmup_share` is the share of warm-up iterations.
    """

    name: str
    source: str
    values: dict[str, Any] = field(default_factory=dict)
    warmup_share: float = 0.1


def preset_for(
    family: str,
    method: str,
    task: str,
    *,
    classes: int = 10,
    shots: int | None = None,
    pictures: int = 0,
    from_head: bool = False,
) -> Preset:
    """Return the preset for a kind of base model (`clip` or `mini`), a method and a task.

    `task` may be any name: only the paper's data sets have special values. `from_head`: for tuning
    an expert that has a head; a preset of its own may depend on the number of `pictures`. 0
    iterations: the head alone.

    Raises:
        KeyError: unknown family or method.

    """
    entry = dict(_recipes()[family][method])
    few = shots is not None and shots <= FEW_SHOTS
    own = entry.pop("from_head", None) if from_head else None
    entry = dict(own or entry)
    few_values = entry.pop("few_shot")
    entry |= few_values if few else {}
    entry.pop("from_head", None)
    name = f"{family}, {method}" + (", from a head" if own else "") + (", few shots" if few else "")
    rate = _paper_rate(task, method, few=few) if family == "clip" else None
    if rate is not None:
        entry["learning_rate"] = rate
        name = f"{name}, {task}"
    entry["iterations"] = _iterations(entry, classes, pictures)
    return Preset(name, entry.pop("source"), warmup_share=entry.pop("warmup_share"), values=entry)


def _iterations(entry: dict[str, Any], classes: int, pictures: int) -> int:
    """Take out of an entry what its number of iterations depends on, and return that number."""
    least = int(entry.pop("iterations"))
    by_class = round(entry.pop("iterations_per_class", 0) * classes)
    by_picture = math.ceil(entry.pop("epochs", 0) * pictures / Recipe.batch_size)
    most = entry.pop("most_iterations", math.inf)
    return int(min(max(least, by_class, by_picture), most)) if least else 0


def presets_of(task: str, classes: int) -> list[Preset]:
    """Return every preset that a task could be learned with, except few-shot ones."""
    pairs = [(family, method) for family, methods in _recipes().items() for method in methods]
    return [preset_for(family, method, task, classes=classes) for family, method in pairs]


@cache
def _recipes() -> dict[str, dict[str, dict[str, Any]]]:
    text = (files("condu_cli.train") / "recipes.json").read_text("utf-8")
    recipes: dict[str, dict[str, dict[str, Any]]] = json.loads(text)
    return recipes


def _paper_rate(task: str, method: str, *, few: bool) -> float | None:
    """Return the authors' peak learning rate for one of their data sets, None for others."""
    public = public_set(task)
    rates = None if public is None else public.paper_recipe
    if rates is None:
        return None
    if method == "full":
        return rates.lr_full
    return rates.lr_lora_5shot if few else rates.lr_lora
