"""Create a registry from an untrusted archive.

Names are matched and never used as paths, every blob is hashed while it is written, and the
database is read only after its schema was compared with ours. The registry is built beside its
place, so a refused archive leaves nothing behind.
"""

import json
import os
import re
import stat
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256 as new_sha256
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from condu_cli._version import __version__
from condu_cli.base_identity import parts_of
from condu_cli.disk import flush_file, flush_folder
from condu_cli.errors import ConduError, IntegrityError, RegistryTooNewError, UsageError
from condu_cli.registry.copies.archive import manifest_of, summarise, without_folders
from condu_cli.registry.copies.archive_database import check_untrusted, set_base
from condu_cli.registry.copies.archive_format import (
    ARCHIVE_FORMAT,
    DATABASE,
    MANIFEST,
    MANIFEST_LIMIT,
    ArchiveError,
    ArchiveReader,
    ArchiveSummary,
    Member,
)
from condu_cli.registry.copies.archive_values import check_values, is_count
from condu_cli.registry.copies.snapshot import (
    described_writing,
    set_wal,
)
from condu_cli.registry.creation import make_skeleton
from condu_cli.registry.database.engine import connect, described_errors
from condu_cli.registry.database.migration import SCHEMA_REVISION, ensure_current, known_revisions
from condu_cli.registry.files.new_folders import is_free, new_folder, refuse_inside_registry
from condu_cli.registry.files.paths import RegistryPaths
from condu_cli.registry.integrity import check_database
from condu_cli.registry.manifest import RegistryConfig
from condu_cli.registry.reachability import History
from condu_cli.registry.repository import Registry
from condu_cli.texts import complaint

_VERSION = re.compile(r"[0-9A-Za-z.+-]{1,40}")
_REVISION = re.compile(r"[0-9a-f]{4,12}")


def read_archive(archive: Path, place: Path, base: str | None = None) -> ArchiveSummary:
    """Create a registry at `place` from an archive; a failure leaves nothing there.

    `base` overrides the base model's id in the archive, for weights that are stored elsewhere on
    this machine; they must be the same weights.
    """
    place = Path(os.path.abspath(place))
    if odd := complaint("the base model's name", base or ""):
        raise UsageError(odd, reason="base-name-odd")
    refuse_inside_registry(place)
    if not is_free(place):
        raise UsageError(
            f"cannot create the registry: {place} is not an empty folder",
            reason="folder-not-free",
            path=place,
        )
    with (
        _opened(archive) as (file, size),
        described_writing(f"create a registry at {place}", "nothing was imported"),
        new_folder(place) as draft,
    ):
        contents = _Contents(archive, RegistryPaths(draft))
        manifest = contents.unpack(file, size)
        history, config = contents.check(manifest, base)
    return summarise(place, size, history, config)


@contextmanager
def _opened(archive: Path) -> Iterator[tuple[BinaryIO, int]]:
    try:
        file = archive.open("rb")
    except OSError as error:
        raise UsageError(
            f"cannot read the archive {archive}: {error.strerror or error}",
            reason="archive-unreadable",
            path=archive,
        ) from error
    with file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise UsageError(
                f"{archive} is not a plain file", reason="archive-not-a-file", path=archive
            )
        yield file, status.st_size


@dataclass
class _Contents:
    """An archive's content, unpacked into a new folder."""

    archive: Path
    paths: RegistryPaths
    manifest: dict[str, Any] | None = None
    blobs: int = 0

    def unpack(self, file: BinaryIO, size: int) -> dict[str, Any]:
        """Write the archive's database and blobs, and return its manifest.

        Raises IntegrityError if the archive is not valid.
        """
        make_skeleton(self.paths)
        reader = ArchiveReader(file, size)
        try:
            for member in reader.members():
                self._unpack(reader, member)
        except ArchiveError as error:
            self._refuse(str(error), error)
        if self.manifest is None or not self.paths.database.exists():
            self._refuse(f"it has no {DATABASE if self.manifest else MANIFEST}")
        if self.blobs != self.manifest["blobs"]:
            self._refuse(f"it has {self.blobs} blobs, {MANIFEST} says {self.manifest['blobs']}")
        return self.manifest

    def check(self, manifest: dict[str, Any], base: str | None) -> tuple[History, RegistryConfig]:
        """Raise IntegrityError unless the unpacked files are a complete, valid registry."""
        try:
            check_untrusted(self.paths.database, manifest["schema"], self.paths.tmp / "new")
            ensure_current(self.paths)
            history, config = self._check_registry(Registry(self.paths), manifest)
            if base is not None:
                config = self._rename_base(config, base)
        except ArchiveError as error:
            self._refuse(f"{DATABASE}: {error}", error)
        except OSError:
            raise
        except ConduError as error:
            if type(error) is ConduError:  # such as a full disk: not the archive's fault
                raise
            self._refuse(f"{DATABASE}: {error.message}", error)
        except Exception as error:  # untrusted rows can make our own code fail in any way
            self._refuse(f"{DATABASE}: it cannot be read ({type(error).__name__})", error)
        self._flush()
        return history, config

    def _unpack(self, reader: ArchiveReader, member: Member) -> None:
        if member.sha256 is not None:
            self.blobs += 1
            if self.manifest is not None and self.blobs > self.manifest["blobs"]:
                raise ArchiveError(f"it has more blobs than {MANIFEST} says")
            place = self.paths.blobs / member.sha256[:2] / member.sha256
            place.parent.mkdir(exist_ok=True)
            digest = new_sha256()
            with place.open("xb") as out:
                for chunk in reader.chunks(member):
                    digest.update(chunk)
                    out.write(chunk)
            if digest.hexdigest() != member.sha256:
                raise ArchiveError(f"{member.name}: its sha256 does not match")
            flush_file(place)
        elif member.name == DATABASE:
            with self.paths.database.open("xb") as out:
                for chunk in reader.chunks(member):
                    out.write(chunk)
        elif member.size > MANIFEST_LIMIT:
            raise ArchiveError(f"{MANIFEST} is too long")
        else:
            self.manifest = _read_manifest(self.archive, b"".join(reader.chunks(member)))

    def _check_registry(
        self, registry: Registry, manifest: dict[str, Any]
    ) -> tuple[History, RegistryConfig]:
        for fault in check_database(registry):
            raise ArchiveError(fault)
        history = registry.history()
        if without_folders(registry.config) != registry.config:
            raise ArchiveError("its base model is named by a path on another machine")
        check_values(registry.config, registry.created_at, registry.operations(), history)
        needed = history.needed_blobs()
        expected = manifest_of(history, registry.config)
        for key in ("fingerprint", "base", "head", "blobs"):
            if manifest[key] != expected[key]:
                raise ArchiveError(f"its {key} differs from that in {MANIFEST}")
        for sha256 in sorted(needed):
            registry.blobs.open(sha256)  # checks that it exists and is a valid safetensors file
        if sum(1 for _ in registry.blobs.all()) != len(needed):
            raise ArchiveError("there are blobs that no session needs")
        return history, registry.config

    def _rename_base(self, config: RegistryConfig, base: str) -> RegistryConfig:
        _, colon, weights = parts_of(base)
        pretrained = weights if colon else config.base.pretrained
        config = replace(config, base=replace(config.base, id=base, pretrained=pretrained))
        database = self.paths.database
        with described_errors(database), closing(connect(database)) as connection:
            set_base(connection, config)
        return config

    def _flush(self) -> None:
        """Set the database to WAL mode and flush everything to disk."""
        set_wal(self.paths.database)
        flush_file(self.paths.database)
        for folder in (*self.paths.blobs.iterdir(), self.paths.blobs, self.paths.root):
            flush_folder(folder)

    def _refuse(self, fault: str, cause: Exception | None = None) -> NoReturn:
        raise IntegrityError(
            f"{self.archive} is not an intact archive: {fault}",
            reason="archive-corrupt",
            path=self.archive,
        ) from cause


def _read_manifest(archive: Path, content: bytes) -> dict[str, Any]:
    """Parse an archive's manifest; it is compared with the other members later."""
    try:
        manifest = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ArchiveError(f"{MANIFEST} is not JSON") from error
    if not isinstance(manifest, dict) or not is_count(manifest.get("format")):
        raise ArchiveError(f"{MANIFEST} does not give the archive's format")
    writer, schema = str(manifest.get("condu")), str(manifest.get("schema"))
    if _VERSION.fullmatch(writer) is None or _REVISION.fullmatch(schema) is None:
        raise ArchiveError(f"{MANIFEST} does not say which condu wrote it")
    if manifest["format"] > ARCHIVE_FORMAT or schema not in known_revisions():
        raise RegistryTooNewError(
            f"{archive} has format {manifest['format']} and schema {schema}, written by condu "
            f"{writer}; condu {__version__} knows format {ARCHIVE_FORMAT} and schemas up to "
            f"{SCHEMA_REVISION}",
            reason="archive-too-new",
            path=archive,
            writer=writer,
            knows=SCHEMA_REVISION,
        )
    keys = {"format", "condu", "schema", "fingerprint", "base", "head", "blobs"}
    if manifest.keys() != keys or not is_count(manifest["blobs"]) or manifest["format"] < 1:
        raise ArchiveError(f"{MANIFEST} does not have the expected fields")
    return manifest
