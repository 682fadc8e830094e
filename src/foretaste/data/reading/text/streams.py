"""Bytes as they come: pipes, and files packed by gzip, bzip2, xz, zstd or zip.

A packed file is unpacked block by block as it is read, so a bomb costs time but no memory. The
module does not know what the bytes mean.
"""

from __future__ import annotations

import bz2
import functools
import gzip
import lzma
import os
import shutil
import stat
import struct
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import is_dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, ParamSpec, TypeVar, cast

from foretaste.errors import DataError, ForetasteError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

P = ParamSpec("P")
R = TypeVar("R")

PACKED = {
    b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\x00": "xz", b"\x28\xb5\x2f\xfd": "zstd",
    b"\x50\x2a\x4d\x18": "zstd", b"PK\x03\x04": "zip", b"PK\x05\x06": "zip",
}  # fmt: skip
SUFFIXES = {".gz": "gzip", ".bz2": "bzip2", ".xz": "xz", ".zst": "zstd", ".zip": "zip"}
LAYERS = 3  # a packed file in a packed file in a zip archive, at most
TABLES = (".csv", ".tsv", ".txt", ".dat", ".data", ".inter", ".json", ".jsonl", ".ndjson",
          ".parquet", ".feather", ".arrow", ".avro", *SUFFIXES)  # fmt: skip
# How content begins that is read from a whole file and not line by line: Parquet, Arrow, Avro,
# NumPy, SQLite, and JSON.
WHOLE = (b"PAR1", b"ARROW1", b"FEA1", b"Obj\x01", b"\x93NUMPY", b"SQLite format 3\x00", b"{", b"[")
DAMAGE = (
    EOFError, OSError, zlib.error, lzma.LZMAError, zstd.ZstdError, zipfile.BadZipFile,
    struct.error, NotImplementedError, RuntimeError, ValueError,
)  # fmt: skip


def packed_as(magic: bytes) -> str:
    """Return how content is packed, by its first bytes, or "".

    Args:
        magic: Its first four bytes or more.
    """
    return next((kind for start, kind in PACKED.items() if magic.startswith(start)), "")


def is_workbook(names: list[str]) -> bool:
    """Return whether a zip archive is a workbook of Excel.

    Args:
        names: The names in the archive.
    """
    return "[Content_Types].xml" in names or any(name.startswith("xl/") for name in names)


def unpacked(raw: BinaryIO, path: Path) -> BinaryIO:
    """Return the content of a file as a stream, unpacked as often as it is packed.

    Args:
        raw: The file, open at its beginning.
        path: The file, for messages.

    Raises:
        DataError: It is damaged, or an archive with several tables, or not of files at all.
    """
    stream, kind = raw, ""
    for _ in range(LAYERS):
        try:
            magic = _peek(stream, 300)
        except DAMAGE as error:
            raise damaged(error, kind, path) from None
        kind = packed_as(magic) or kind
        if magic[257:262] == b"ustar":
            raise DataError("the file is a tar archive.", where=path, fix="Unpack it (tar -xf).")
        if not packed_as(magic):
            return stream
        try:
            stream = _opened(stream, kind, path)
        except DAMAGE as error:
            raise damaged(error, kind, path) from None
    raise DataError(f"the file is packed more than {LAYERS} times.", where=path, fix="Unpack it.")


def _peek(stream: BinaryIO, n: int) -> bytes:
    magic = stream.read(n)
    stream.seek(0)
    return magic


def _opened(stream: BinaryIO, kind: str, path: Path) -> BinaryIO:
    """Return the stream of what another one has packed."""
    if kind == "zip":
        return _member(zipfile.ZipFile(stream), path)
    opener: Callable[[BinaryIO], Any] = {
        "gzip": lambda raw: gzip.GzipFile(fileobj=raw),
        "bzip2": bz2.BZ2File, "xz": lzma.LZMAFile, "zstd": zstd.ZstdFile,
    }[kind]  # fmt: skip
    return cast(BinaryIO, opener(stream))


def _member(archive: zipfile.ZipFile, path: Path) -> BinaryIO:
    """Return the one table in a zip archive."""
    names = [
        info.filename
        for info in archive.infolist()
        if not info.is_dir() and not info.filename.startswith("__MACOSX/")
        and not Path(info.filename).name.startswith(".")
    ]  # fmt: skip
    if is_workbook(names):
        raise DataError(
            "the file is a workbook of Excel.", where=path, fix="Save its sheet as CSV."
        )
    tables = [name for name in names if Path(name).suffix.lower() in TABLES]
    tables = [name for name in tables if "readme" not in name.lower()] or tables or names
    if len(tables) != 1:
        listed = ", ".join(tables[:8]) + (", ..." if len(tables) > 8 else "")
        holds = f"{len(tables)} files: {listed}" if tables else "no file"
        raise DataError(
            f"the zip archive holds {holds}.", where=path,
            fix="Unpack it (unzip) and name one of them." if tables else "Download it again.",
        )  # fmt: skip
    return cast(BinaryIO, archive.open(tables[0]))


def damaged(error: BaseException, kind: str, path: Path) -> DataError:
    """Return the error that says what is wrong with a packed file, or with the reading of one.

    Args:
        error: What unpacking raised.
        kind: How the file is packed.
        path: The file.
    """
    fix = "Download or copy it again."
    if not kind:
        reason = getattr(error, "strerror", None) or error
        return DataError(f"the file cannot be read ({reason}).", where=path, fix=fix)
    if isinstance(error, RuntimeError) and "password" in str(error):
        what, fix = "the zip archive needs a password.", "Unpack it yourself, then name the file."
    elif isinstance(error, NotImplementedError):
        what, fix = f"the {kind} file is packed in a way that is not known ({error}).", "Unpack it."
    elif isinstance(error, EOFError):
        what = f"the {kind} file is cut off before its end."
    else:
        what = f"the {kind} file is damaged ({error})."
    return DataError(what, where=path, fix=fix)


def reads_anything(read: Callable[P, R]) -> Callable[P, R]:
    """Let a function that reads a path read pipes too, and other formats than text when packed.

    Both are copied to a temporary file first, in bounded memory: a pipe can be read only once, and
    its encoding may show late. Messages and reports name what was given.

    Args:
        read: A function whose first argument is the source; "-" is standard input.
    """

    @functools.wraps(read)
    def call(*args: P.args, **named: P.kwargs) -> R:
        source, *others = args or (None,)
        path = _needs_copy(source)
        if path is None:
            return read(*args, **named)
        with tempfile.TemporaryDirectory(prefix="foretaste-") as folder:
            copy = Path(folder) / _plain_name(path)
            try:
                _copy(path, copy)
                result = read(*cast(Any, (copy, *others)), **named)
            except ForetasteError as error:
                _rename(error, str(copy), str(path))
                raise
        report: Any = getattr(result, "report", None)
        if is_dataclass(result) and report is not None:
            result = replace(cast(Any, result), report=replace(report, source=str(path)))
        return cast(R, result)

    return call


def _needs_copy(source: object) -> Path | None:
    """Return the path of a pipe, or of a packed file that must be unpacked whole; else None."""
    if not isinstance(source, str | Path) or "://" in str(source):
        return None
    path = Path(source).expanduser()
    if str(source) == "-" and not path.exists():
        return Path("-")
    try:
        mode = path.stat().st_mode
        if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or stat.S_ISCHR(mode):
            return path
        if stat.S_ISREG(mode):
            with path.open("rb") as raw:
                if packed_as(raw.read(6)):
                    raw.seek(0)
                    return path if _peek(unpacked(raw, path), 16).startswith(WHOLE) else None
    except (OSError, ForetasteError, *DAMAGE):  # what reads the path says what is wrong with it
        return None
    return None


def _plain_name(path: Path) -> str:
    """Return the name of the copy of a file: without the suffixes of packing."""
    if str(path) in ("-", "/dev/stdin", "/dev/fd/0", "/proc/self/fd/0"):
        return "stdin"
    return path.stem if path.suffix in SUFFIXES and path.is_file() else path.name


def _copy(path: Path, copy: Path) -> None:
    """Copy a pipe as it is, or what is in a packed file, block by block."""
    try:
        if str(path) == "-":
            with copy.open("wb") as file:
                shutil.copyfileobj(sys.stdin.buffer, file, 1 << 20)
            return
        with path.open("rb") as raw, copy.open("wb") as file:
            if stat.S_ISCHR(os.fstat(raw.fileno()).st_mode) and not (
                raw.isatty() or path == Path(os.devnull)
            ):
                raise DataError("this is a device.", where=path, fix="Give a file or a pipe.")
            shutil.copyfileobj(unpacked(raw, path) if path.is_file() else raw, file, 1 << 20)
    except DAMAGE as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise DataError(
                f"it cannot be copied to {copy.parent} ({error.strerror}).", where=path,
                fix="Make room there, or name another folder in the variable TMPDIR.",
            ) from None  # fmt: skip
        raise damaged(error, "packed", path) from None


def _rename(error: ForetasteError, copy: str, shown: str) -> None:
    """Write the name of the source into an error in place of that of its copy."""
    for name, value in vars(error).items():
        if isinstance(value, str):
            setattr(error, name, value.replace(copy, shown))
    for inner in getattr(error, "errors", ()):
        _rename(inner, copy, shown)
    error.args = (str(error),)
