"""Unpacking: the files of a zip archive that nobody vouches for, within limits.

An archive with a member that is unsafe is refused whole. The module does not know where the
archive comes from.
"""

from __future__ import annotations

import errno
import lzma
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from foretaste.bundle import atomic_write
from foretaste.errors import FetchError

CHUNK = 1 << 18  # bytes
MiB = 1 << 20

# What zipfile raises for an archive with a flipped bit.
_DAMAGED = (
    zipfile.BadZipFile, zlib.error, struct.error, lzma.LZMAError, EOFError, ValueError,
    NotImplementedError, RuntimeError,
)  # fmt: skip


@dataclass(frozen=True)
class Limits:
    """What an archive may hold at most; a larger one is refused as a bomb.

    Args:
        download: Bytes of the archive.
        one_file: Bytes of one unpacked file.
        all_files: Bytes of all unpacked files.
        ratio: Bytes of all unpacked files for each byte of the archive.
    """

    download: int = 64 * MiB
    one_file: int = 64 * MiB
    all_files: int = 128 * MiB
    ratio: int = 100


def unpack(archive: Path, into: Path, wanted: Mapping[str, str], limits: Limits) -> None:
    """Write members of an archive to a folder; an archive with one unsafe member is refused whole.

    Args:
        archive: The zip file.
        into: The folder.
        wanted: Name of the file to write by name in the archive; names that it lacks are skipped.
        limits: What the archive may hold.

    Raises:
        FetchError: The archive is unsafe or damaged.
    """
    allowed = min(limits.all_files, limits.ratio * archive.stat().st_size)
    try:
        with zipfile.ZipFile(archive) as opened:
            _check_members(opened, archive)
            for member, name in wanted.items():
                if member not in opened.NameToInfo:
                    continue
                with opened.open(member) as source:
                    allowed -= _copy(source, into / name, min(allowed, limits.one_file), archive)
    except OSError as error:
        if error.errno != errno.EINVAL:  # zipfile seeks before the start of some damaged archives
            raise
        raise FetchError("not a readable zip file.", where=archive) from error
    except _DAMAGED as error:
        raise FetchError(f"not a readable zip file: {error}.", where=archive) from error


def _check_members(opened: zipfile.ZipFile, archive: Path) -> None:
    """Refuse an archive with a member that could be written elsewhere or is no plain file."""
    names = set()
    for member in opened.infolist():
        name = member.orig_filename  # as stored; ZipFile cuts `filename` at a NUL
        kind = stat.S_IFMT(member.external_attr >> 16)
        reason = ""
        if name.startswith("/") or re.match("[A-Za-z]:", name) or set("\\\0") & set(name):
            reason = "an absolute or foreign path"
        elif ".." in PurePosixPath(name).parts:
            reason = "a path out of the folder"
        elif kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            reason = "a link or a device"
        elif member.flag_bits & 1:
            reason = "encrypted"
        elif name in names:
            reason = "there twice"
        if reason:
            raise FetchError(f"unsafe archive, refused: {name!r} is {reason}.", where=archive)
        names.add(name)


def _copy(source: IO[bytes], to: Path, allowed: int, archive: Path) -> int:
    """Write a member and return its size, counted while reading because its header may be wrong."""
    written = 0

    def unpacked(fresh: Path) -> None:
        nonlocal written
        with fresh.open("wb") as file:
            while chunk := source.read(CHUNK):
                written += len(chunk)
                if written > allowed:
                    raise FetchError(
                        f"unsafe archive, refused: {to.name!r} unpacks to more than the "
                        f"{allowed:,} bytes left to it.", where=archive,
                    )  # fmt: skip
                file.write(chunk)

    atomic_write(to, unpacked)
    return written
