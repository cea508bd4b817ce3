"""Counts what grows: patches applied, manifests hashed, SQL statements, blobs opened and hashed.

Seconds depend on the machine; these numbers do not, so a test can compare them at two sizes.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import Engine, event

from condu_cli.core.codecs.condu.codec import ConduCodec
from condu_cli.registry.blobs import store
from condu_cli.registry.manifest import Session

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@dataclass
class Counts:
    """What the counted work has cost so far."""

    patches: int = 0
    manifests: int = 0
    statements: int = 0
    opened: int = 0
    hashed: int = 0


@contextmanager
def counted() -> Iterator[Counts]:
    """Count while the block runs, in this process and in all of its threads."""
    counts = Counts()

    def after(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            setattr(counts, name, getattr(counts, name) + 1)
            return real(*args, **kwargs)

        return call

    def on_statement(*_: object) -> None:
        counts.statements += 1

    event.listen(Engine, "before_cursor_execute", on_statement)
    try:
        with pytest.MonkeyPatch.context() as patch:
            for name, owner, attribute in (
                ("patches", ConduCodec, "restore"),
                ("manifests", Session, "computed_id"),
                ("opened", store.BlobReader, "__init__"),
                ("hashed", store, "file_sha256"),
            ):
                patch.setattr(owner, attribute, after(name, getattr(owner, attribute)))
            yield counts
    finally:
        event.remove(Engine, "before_cursor_execute", on_statement)
