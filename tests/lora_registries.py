"""LoRA registries of `tiny` with made-up experts: the real factors, no training, no PEFT."""

import numpy as np
from registry_templates import copy_of

from condu_cli.backbone.base_models import load_base
from condu_cli.core.routing.prototypes import Prototypes
from condu_cli.registry.repository import Registry
from condu_cli.workflows.opening.paradigms import LoraRequest
from condu_cli.workflows.opening.workspace import new_config
from condu_cli.workflows.sessions.committing import commit_expert
from condu_cli.workflows.sessions.trained_experts import TrainedExpert, new_run

CLASSES = ("blue", "red")


def lora_config(train="whole", **values):
    options = {"rescaler": "global"}
    return new_config(load_base("tiny"), "lora", options, train, LoraRequest(**values))


def made_delta(config, seed, scale=0.05):
    random = np.random.default_rng(seed)
    return {
        p.name: random.normal(scale=scale, size=p.shape).astype(np.float32)
        for p in config.parameters
    }


def commit(registry, task, seed, *, with_head=False):
    rng = np.random.default_rng(seed)

    def normal(*shape):
        return rng.normal(size=shape).astype(np.float32)

    head = registry.head()
    trained = TrainedExpert(
        task=task,
        kind="learn",
        delta=made_delta(registry.config, seed),
        prototypes=Prototypes(normal(2, 16), normal(2, 16), normal(2, 32), np.array([5, 5])),
        classes=CLASSES,
        templates=("a photo of a {}.",),
        training={"run": new_run(), "recipe": {"image_size": 32}},
        head={"weights": normal(2, 32), "bias": normal(2)} if with_head else None,
    )
    parent = None if head is None else head.id
    return commit_expert(registry, trained, parent=parent, command=f"learn --task {task}")


def made_registry(path, *tasks, **values):
    """A registry with an expert for each of the tasks; `values` as for `lora_config`."""
    return copy_of(path, _made_fresh, *tasks, **values)


def _made_fresh(path, *tasks, **values):
    registry = Registry.create(path, lora_config(**values))
    for seed, task in enumerate(tasks):
        commit(registry, task, seed)
    return registry
