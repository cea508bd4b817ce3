"""An open registry with its base model: what every command that runs a model needs."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from condu_cli.backbone.base_models import load_recorded_base
from condu_cli.backbone.deltas import put_weights, weights_of
from condu_cli.base_identity import BaseIdentity
from condu_cli.core.arrays.layout import InvalidStateError
from condu_cli.core.codecs.interface import UnknownCodecError
from condu_cli.core.codecs.known import (
    DEFAULT_CODEC,
    PAPER_OPTIONS,
    codec_by_name,
    new_options,
)
from condu_cli.core.codecs.operations import decode_into
from condu_cli.errors import BaseModelError, IntegrityError, UsageError
from condu_cli.registry.manifest import (
    CodecChoice,
    ParameterShape,
    RegistryConfig,
    Session,
    TaskEntry,
)
from condu_cli.workflows.opening.paradigms import (
    FULL,
    LORA,
    METHODS,
    LoraRequest,
    adapted,
    adapted_as_recorded,
    lora_record,
)
from condu_cli.workflows.opening.pinning import PinnedSession, pin_head
from condu_cli.workflows.sessions.coding import codec_for, layout_of
from condu_cli.workflows.sessions.current import require_tasks
from condu_cli.workflows.sessions.expert_blobs import head_in, prototypes_in
from condu_cli.workflows.sessions.states import corrupt_session

if TYPE_CHECKING:
    from collections.abc import Mapping

    from condu_cli.backbone.dual_encoder import DualEncoder
    from condu_cli.base_identity import BaseIdentity
    from condu_cli.core.arrays.layout import Float32
    from condu_cli.core.routing.prototypes import Prototypes
    from condu_cli.registry.repository import Registry


WHOLE: Mapping[str, str] = {"exact": "", "trim": "0"}
"""What LoRA factors are stored with by default: all merged, and nothing dropped."""
COMPAT = "compat"
"""The key of `method_options` with whose choices a registry follows; only "paper" exists."""


class Workspace:
    """A registry, one of its sessions, its base model, and experts decoupled on demand."""

    def __init__(self, registry: Registry, device: str = "cpu") -> None:
        self.registry = registry
        self._device = device
        self._loaded: tuple[str, str] | None = None
        self._pinned: PinnedSession | None = None

    @cached_property
    def base(self) -> DualEncoder:
        """The registry's base model, loaded lazily: wrong names and paths fail faster.

        Raises:
            BaseModelError: it cannot be loaded, or its weights are not the registry's.

        """
        config = self.registry.config
        base = load_recorded_base(config.base, self._device)
        check_base(self.registry, base.info)
        return trained_part(base, config)

    def head(self) -> Session:
        """Return the current session; pin it for experts and prototypes.

        Raises:
            NotFoundError: nothing has been learned yet.
            IntegrityError: a blob is missing.

        """
        self._pinned = pin_head(self.registry)
        return require_tasks(self.registry, None if self._pinned is None else self._pinned.session)

    def expert(self, session: Session, entry: TaskEntry) -> DualEncoder:
        """Decouple one expert into a working copy of the base model.

        The copy is shared: the next call overwrites it.

        Raises:
            IntegrityError: a blob is missing or corrupt.

        """
        wanted = (session.id, entry.name)
        if self._loaded != wanted:
            self._loaded = None
            self._decouple(session, entry)
            self._loaded = wanted
        return self._scratch

    def _decouple(self, session: Session, entry: TaskEntry) -> None:
        weights = weights_of(self._scratch)
        blob = self._pin(session).blob
        shared = None if session.shared is None else blob(session.shared)
        codec = codec_for(self.registry.config, session)
        try:
            decode_into(codec, shared, weights_of(self.base), [blob(entry.part)], [weights])
        except InvalidStateError as exc:
            raise corrupt_session(session, exc) from exc
        put_weights(self._scratch, weights)

    def _pin(self, session: Session) -> PinnedSession:
        if self._pinned is None or self._pinned.session.id != session.id:
            self._pinned = PinnedSession(self.registry, session)
        return self._pinned

    def prototypes(self, session: Session, entry: TaskEntry) -> Prototypes:
        """Read the prototypes of a task.

        Raises:
            IntegrityError: the blob is missing or corrupt.

        """
        return prototypes_in(entry, self._pin(session).blob(entry.expert.prototypes))

    def head_beside(self, session: Session, entry: TaskEntry) -> dict[str, Float32] | None:
        """Read the head stored beside a task's expert; return None if it has none.

        `weights` is float32 (C, P) and `bias` float32 (C,), for the task's C classes in order.

        Raises:
            IntegrityError: the blob is missing or corrupt.

        """
        if entry.expert.head is None:
            return None
        return head_in(entry, self._pin(session).blob(entry.expert.head))

    @cached_property
    def _scratch(self) -> DualEncoder:
        return self.base.expert_copy()


def trained_part(base: DualEncoder, config: RegistryConfig) -> DualEncoder:
    """Return the base model with only the registry's parameters trainable.

    Raises:
        BaseModelError: parameters are missing or have other shapes, or the initialisation of LoRA
            factors differs from the registry's.
        IntegrityError: this program does not know the registry's method.

    """
    if config.method not in METHODS:
        raise IntegrityError(
            f"the registry's method cannot be used: {config.method!r} is unknown",
            reason="needs-newer-condu",
        )
    if config.method == LORA:
        base = adapted_as_recorded(base, config.method_options)
    model = base.restricted_to([parameter.name for parameter in config.parameters])
    shapes = {name: tuple(p.shape) for name, p in model.trainable_parameters().items()}
    for parameter in config.parameters:
        if shapes[parameter.name] != parameter.shape:
            raise BaseModelError(
                f"the registry's parameter {parameter.name!r} has shape {parameter.shape}, but in "
                f"{config.base.id} it has {shapes[parameter.name]}",
                reason="base-differs",
                parameter_name=parameter.name,
                base=config.base.id,
            )
    return model


def new_config(
    base: DualEncoder,
    method: str = FULL,
    codec_options: Mapping[str, str] | None = None,
    train: str = "whole",
    lora: LoraRequest | None = None,
    compat: str | None = None,
) -> RegistryConfig:
    """Describe a new registry for a base model: its parameters, method and codec.

    `method`: full or lora. `lora`, from `lora_options`, is only for the latter; its unset options
    are the base model's choice. `train`: whole, image or text: the tower to train. `compat`:
    "paper" for the paper's choices, which the registry records. Options of the codec that are not
    given get their defaults, or the paper's values.

    Raises:
        UsageError: an unknown method, tower or layer, LoRA options without LoRA, or an option of
            the codec that does not fit.

    """
    if method not in METHODS or (method == FULL and lora is not None):
        raise UsageError(
            f"method {method!r} " + ("has no options" if lora else "is unknown"),
            reason="unknown-choice",
            parameter="method",
            value=method,
            choices=METHODS,
        )
    options: dict[str, Any] = {}
    if method == LORA:
        model = adapted(base, lora or LoraRequest(), train)
        options = lora_record(base, model, train)
        base = model
    if compat is not None:
        options[COMPAT] = compat
    names = base.tower_parameters(train)
    if compat is not None:  # no heads, so nothing to fold them into
        names = [name for name in names if name not in base.added_parameters]
    base = base.restricted_to(names)
    parameters = base.trainable_parameters()
    config = RegistryConfig(
        base=base.info,
        method=method,
        method_options=options,
        codec=CodecChoice(DEFAULT_CODEC, _new_options(base, codec_options or {}, compat)),
        parameters=tuple(ParameterShape(n, tuple(p.shape)) for n, p in parameters.items()),
    )
    _check_codec(config)
    return config


def _new_options(base: DualEncoder, given: Mapping[str, str], compat: str | None) -> dict[str, str]:
    """Return every option of a new registry's codec.

    By default the linear end of the image tower is kept exactly, like the small parameters: it is
    what a task changes most. Of LoRA factors, which are small already, nothing is dropped.
    """
    if compat is not None:
        return new_options(DEFAULT_CODEC, {**PAPER_OPTIONS, **given})
    if base.factors is not None:
        return new_options(DEFAULT_CODEC, {**WHOLE, **given})
    options = new_options(DEFAULT_CODEC, given)
    end = base.linear_end
    if "exact" not in given and end in base.trainable_parameters():
        options["exact"] = f"{options['exact']},{end}"
    return options


def _check_codec(config: RegistryConfig) -> None:
    try:
        codec_by_name(config.codec.name, layout_of(config), config.codec.options)
    except UnknownCodecError as exc:
        raise UsageError(str(exc), reason="codec-option-unknown") from exc


def check_base(registry: Registry, info: BaseIdentity) -> None:
    """Check a loaded base model against the registry's record.

    Raises:
        BaseModelError: architecture, activation, weights or image size differ.

    """
    recorded = registry.config.base
    mismatch = recorded.mismatch(info)
    if mismatch is not None:
        what, expected, found = mismatch
        raise BaseModelError(
            f"the registry at {registry.path} belongs to base model {recorded.id} with "
            f"{what} {expected}, but {info.id} has {found}",
            reason="base-differs",
            registry=registry.path,
            base=recorded.id,
            found=info.id,
        )
