"""A tiny registry made of numpy arrays: no model, no network, milliseconds."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from made_sessions import add_task

from condu_cli.base_identity import BaseIdentity
from condu_cli.registry.manifest import CodecChoice, ParameterShape, RegistryConfig, Session
from condu_cli.registry.repository import Registry

Learn = Callable[..., Session]


@pytest.fixture(scope="session")
def config() -> RegistryConfig:
    return RegistryConfig(
        base=BaseIdentity(
            id="tiny",
            architecture="tiny-arch",
            pretrained="nothing",
            activation="gelu",
            weights_sha256="b" * 64,
            image_size=8,
        ),
        method="full",
        codec=CodecChoice("condu", {"dtype": "float32"}),
        parameters=(ParameterShape("w", (3, 4)), ParameterShape("b", (4,))),
    )


@pytest.fixture
def registry(tmp_path: Path, config: RegistryConfig) -> Registry:
    return Registry.create(tmp_path / "registry", config)


@pytest.fixture
def learn(registry: Registry) -> Learn:
    """Add a task to the registry, as a workflow would."""

    return partial(add_task, registry)
