"""An open registry together with its base model: what every command that runs a model needs."""

from __future__ import annotations

from dataclasses import asdict
from functools import cached_property
from typing import TYPE_CHECKING

from condu_cli.backbone.catalog import load_recorded_base
from condu_cli.backbone.deltas import put_weights, weights_of
from condu_cli.core.codec import (
    Codec,
    ConduCodec,
    EncodedState,
    ExpertTarget,
    UnknownCodecError,
    codec_by_name,
)
from condu_cli.core.layout import InvalidStateError, ParameterLayout
from condu_cli.core.prototypes import Prototypes
from condu_cli.errors import BaseModelError, IntegrityError, NotFoundError
from condu_cli.registry.manifest import (
    BaseIdentity,
    ParameterShape,
    RegistryConfig,
    Session,
    TaskEntry,
    short_id,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from condu_cli.backbone.base import BaseInfo, DualEncoder
    from condu_cli.registry.blobs import BlobReader
    from condu_cli.registry.repository import Registry


class Workspace:
    """One registry, one session of it, its base model, and experts decoupled on demand."""

    def __init__(self, registry: Registry, device: str = "cpu") -> None:
        self.registry = registry
        self._device = device
        self._loaded: tuple[str, str] | None = None

    @cached_property
    def base(self) -> DualEncoder:
        """The registry's base model, loaded on first use: wrong names and paths fail faster.

        Raises:
            BaseModelError: it cannot be had, or has other weights than the registry's.

        """
        base = load_recorded_base(self.registry.config.base.id, self._device)
        check_base(self.registry, base.info)
        return base

    @cached_property
    def codec(self) -> Codec:
        """The codec that the registry names, over its parameters."""
        return codec_for(self.registry.config)

    def head(self) -> Session:
        """Return the current session.

        Raises:
            NotFoundError: nothing has been learned yet.

        """
        head = self.registry.head()
        if head is None or not head.entries:
            raise NotFoundError(
                f"the registry at {self.registry.path} holds no tasks yet",
                "Teach it one: condu learn --task NAME --data DIR",
            )
        return head

    def expert(self, session: Session, entry: TaskEntry) -> DualEncoder:
        """Decouple one expert into a working copy of the base model.

        The copy is shared: the next call overwrites it.

        Raises:
            IntegrityError: a blob is missing or does not hold what the codec promises.

        """
        wanted = (session.id, entry.name)
        if self._loaded != wanted:
            self._loaded = None
            self._decouple(session, entry)
            self._loaded = wanted
        return self._scratch

    def _decouple(self, session: Session, entry: TaskEntry) -> None:
        weights = weights_of(self._scratch)
        target = ExpertTarget(self.registry.blobs.open(entry.part), weights)
        shared = open_shared(self.registry, session)
        try:
            self.codec.decode_into(shared, weights_of(self.base), [target])
        except InvalidStateError as exc:
            raise damaged_session(session, exc) from exc
        put_weights(self._scratch, weights)

    def prototypes(self, entry: TaskEntry) -> Prototypes:
        """Read a task's prototypes.

        Raises:
            IntegrityError: the blob is missing or holds something else.

        """
        try:
            return Prototypes.from_arrays(self.registry.blobs.open(entry.expert.prototypes))
        except InvalidStateError as exc:
            raise IntegrityError(
                f"the prototypes of task '{entry.name}' are damaged: {exc}",
                "Go back to an older session: condu rollback",
            ) from exc

    @cached_property
    def _scratch(self) -> DualEncoder:
        return self.base.expert_copy()


def open_shared(registry: Registry, session: Session) -> BlobReader | None:
    """The shared part of a session's experts, memory-mapped; None where it has none."""
    return None if session.shared is None else registry.blobs.open(session.shared)


def open_state(registry: Registry, codec: Codec, session: Session | None) -> EncodedState:
    """All experts of a session as its codec encoded them, memory-mapped."""
    if session is None or not session.entries:
        return codec.empty()
    parts = [registry.blobs.open(entry.part) for entry in session.entries]
    return EncodedState(open_shared(registry, session), parts)


def layout_of(config: RegistryConfig) -> ParameterLayout:
    """The registry's fixed parameter order, as the method sees it."""
    return ParameterLayout(
        tuple(p.name for p in config.parameters), tuple(p.shape for p in config.parameters)
    )


def codec_for(config: RegistryConfig) -> Codec:
    """Build the codec that a registry's configuration names.

    Raises:
        IntegrityError: this program does not know the codec or one of its options.

    """
    try:
        return codec_by_name(config.codec, layout_of(config), config.codec_options)
    except UnknownCodecError as exc:
        raise IntegrityError(
            f"the registry's codec cannot be used: {exc}", "Upgrade condu"
        ) from exc


def damaged_session(session: Session, exc: Exception) -> IntegrityError:
    """Name the session whose blobs do not hold what they should."""
    return IntegrityError(
        f"session {short_id(session.id)} is damaged: {exc}",
        "Go back to an older session: condu rollback",
    )


def new_config(
    base: DualEncoder, method: str = "full", codec_options: Mapping[str, str] | None = None
) -> RegistryConfig:
    """Describe a new registry for a base model: its parameters, method and codec.

    Options of the codec that are not given get their defaults.
    """
    parameters = base.trainable_parameters()
    shapes = tuple(ParameterShape(n, tuple(p.shape)) for n, p in parameters.items())
    return RegistryConfig(
        base=BaseIdentity(**asdict(base.info)),
        method=method,
        codec=ConduCodec.name,
        codec_options={**ConduCodec.defaults, **(codec_options or {})},
        parameters=shapes,
    )


def check_base(registry: Registry, info: BaseInfo) -> None:
    """Compare a loaded base model with the one that the registry records.

    Raises:
        BaseModelError: architecture, activation or weights differ.

    """
    recorded = registry.config.base
    pairs = (
        ("architecture", recorded.architecture, info.architecture),
        ("activation", recorded.activation, info.activation),
        ("weights", recorded.weights_sha256, info.weights_sha256),
    )
    for what, expected, found in pairs:
        if expected != found:
            raise BaseModelError(
                f"the registry at {registry.path} belongs to base model {recorded.id} with "
                f"{what} {expected[:24]}, but {info.id} has {found[:24]}",
                "Use the base model that the registry was made with (is CONDU_BASE set?), or "
                "another --registry",
            )
