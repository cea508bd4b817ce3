"""The archive format: an uncompressed POSIX tar with three kinds of members.

condu-registry.json   what the archive is; written first
condu.sqlite          the database, without anything specific to the machine it comes from
blobs/ab/abcd…        each blob that a session needs, in the order of names

Headers are written and parsed one at a time with `tarfile`. Its own reader is never used on a
whole file: it takes anything it does not understand for the end, and reads extended headers of
any size.
"""

import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

ARCHIVE_FORMAT = 1
MANIFEST = "condu-registry.json"
DATABASE = "condu.sqlite"
MANIFEST_LIMIT = 1 << 20
CHUNK = 1 << 20

_BLOCK = tarfile.BLOCKSIZE
_EXTENDED_LIMIT = 4096
_PADDING_LIMIT = 1 << 20
_BLOB = re.compile(r"blobs/([0-9a-f]{2})/(\1[0-9a-f]{62})")
_RECORD = re.compile(rb"(\d{1,4}) ([^=\n]{1,100})=([^\n]*)\n")
_HARMLESS = frozenset({b"mtime", b"atime", b"ctime", b"uid", b"gid", b"uname", b"gname"})


@dataclass(frozen=True)
class ArchiveSummary:
    """What an archive holds; `size` is the file's size in bytes.

    `path` is the archive that was written, or the registry that was created from one.
    """

    path: Path
    size: int
    head: str | None
    sessions: int
    tasks: tuple[str, ...]
    blobs: int
    base_id: str
    weights_sha256: str
    warnings: tuple[str, ...] = ()


class ArchiveError(ValueError):
    """The file is not a valid archive; the message says why."""


class Member(NamedTuple):
    """One file in an archive; `sha256` is set for blobs."""

    name: str
    size: int
    sha256: str | None


def blob_name(sha256: str) -> str:
    """Return the name of a blob's member."""
    return f"blobs/{sha256[:2]}/{sha256}"


def header(name: str, size: int) -> bytes:
    """Return a member's header, without time or owner."""
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o644
    return info.tobuf(tarfile.PAX_FORMAT)


def padding(size: int) -> bytes:
    """Return the padding after a member of `size` bytes."""
    return bytes(-size % _BLOCK)


def ending(size: int) -> bytes:
    """Return the end of an archive that is `size` bytes long so far."""
    end = 2 * _BLOCK
    return bytes(end + -(size + end) % tarfile.RECORDSIZE)


def is_archive(path: Path) -> bool:
    """Say whether a file begins as an archive does; it may still be corrupt."""
    try:
        with path.open("rb") as file:
            info = tarfile.TarInfo.frombuf(file.read(_BLOCK), "utf-8", "surrogateescape")
    except (OSError, tarfile.HeaderError):
        return False
    return info.name in (MANIFEST, DATABASE) or _BLOB.fullmatch(info.name) is not None


class ArchiveReader:
    """Reads an archive front to back and accepts only complete members with known names.

    No name is ever used as a path. At most one chunk is held in memory.
    """

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._left = size
        self._names: set[str] = set()

    def members(self) -> Iterator[Member]:
        """Yield each member; read its bytes with `chunks` before the next one."""
        while (info := self._header()) is not None:
            size = None
            if info.type == tarfile.XHDTYPE:
                size = self._extended_size(info)
                info = self._header()
                if info is None:
                    raise ArchiveError("it ends after an extended header")
            yield self._member(info, info.size if size is None else size)
        self._require_padding()

    def chunks(self, member: Member) -> Iterator[bytes]:
        """Yield the bytes of the member that was yielded last."""
        left = member.size
        while left:
            chunk = self._take(min(left, CHUNK))
            left -= len(chunk)
            yield chunk
        if any(self._take(-member.size % _BLOCK)):
            raise ArchiveError(f"{member.name}: its padding is not empty")

    def _member(self, info: tarfile.TarInfo, size: int) -> Member:
        name = info.name
        blob = _BLOB.fullmatch(name)
        if info.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
            raise ArchiveError(f"{_shown(name)} is not a plain file")
        if blob is None and name not in (MANIFEST, DATABASE):
            raise ArchiveError(f"{_shown(name)} is not a valid name in an archive")
        if name in self._names:
            raise ArchiveError(f"{name} occurs twice")
        if not 0 <= size <= self._left:
            raise ArchiveError(f"{name} is truncated")
        self._names.add(name)
        return Member(name, size, None if blob is None else blob[2])

    def _header(self) -> tarfile.TarInfo | None:
        """Return the next header, None at the end."""
        block = self._take(_BLOCK)
        if not any(block):
            return None
        try:
            info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            raise ArchiveError(f"a header cannot be read ({error})") from error
        if info.type == tarfile.GNUTYPE_SPARSE or info.linkname:
            raise ArchiveError(f"{_shown(info.name)} is not a plain file")
        return info

    def _extended_size(self, info: tarfile.TarInfo) -> int | None:
        """Return the size from an extended header, which members of 8 GiB and more have."""
        if not 0 <= info.size <= _EXTENDED_LIMIT:
            raise ArchiveError("an extended header is too long")
        content = self._take(info.size)
        self._take(-info.size % _BLOCK)
        size, place = None, 0
        while place < len(content):
            record = _RECORD.match(content, place)
            if record is None or int(record[1]) != len(record[0]):
                raise ArchiveError("an extended header cannot be read")
            if record[2] == b"size" and re.fullmatch(rb"\d{1,18}", record[3]):
                size = int(record[3])
            elif record[2] not in _HARMLESS:
                raise ArchiveError("an extended header holds an unexpected field")
            place = record.end()
        return size

    def _require_padding(self) -> None:
        """Raise ArchiveError unless the rest of the file is a tar's end marker."""
        if not _BLOCK <= self._left <= _PADDING_LIMIT or any(self._take(self._left)):
            raise ArchiveError("there is data after its last member")

    def _take(self, size: int) -> bytes:
        data = self._file.read(size) if size <= self._left else b""
        if len(data) != size:
            raise ArchiveError("it is truncated")
        self._left -= size
        return data


def _shown(name: str) -> str:
    """Escape untrusted text for a terminal."""
    return ascii(name[:100])
