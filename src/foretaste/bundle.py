"""The bundle: a directory that holds a trained recommender as data, never as code.

`manifest.json` names every other file with its SHA-256 and carries one of its own. New files are
written beside the old ones under names of their own, and the manifest is replaced last, in one
rename: killed at any moment, the directory holds the old bundle or the new one. Writers of one
folder take turns by a lock; a reader needs none, and begins anew when its files were replaced.

`atomic_write` and `put_in_place` are the only ways in which foretaste replaces a file.
The module does not know what a recommender is, nor which values and tables one consists of.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import os
import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from foretaste.errors import BundleError

try:
    import fcntl
except ImportError:  # on Windows, where `alone` does not lock
    fcntl = None

FORMAT = 1
MANIFEST = "manifest.json"
LOCK = "foretaste.lock"
NEW = r"(\.[0-9a-f]{12})?\.new"  # the temporary names of `atomic_write`, and of foretaste 0.1.0
OURS = re.compile(
    rf"\w+-[0-9a-f]{{12}}\.(safetensors|parquet)({NEW})?|manifest\.json{NEW}|{re.escape(LOCK)}"
)


@dataclass(frozen=True, eq=False)
class Bundle:
    """What a bundle holds.

    Args:
        values: What JSON can hold, by name.
        tensors: Tensors of any shape, by name.
        tables: Data frames, by name.
    """

    values: dict[str, Any]
    tensors: dict[str, Tensor]
    tables: dict[str, pl.DataFrame]


@contextlib.contextmanager
def alone(lock: Path) -> Iterator[None]:
    """Hold a lock for the time of the block, and wait for whoever holds it now.

    The operating system releases the lock of a process that is killed. Where there are no such
    locks (on Windows, and on some file systems) the block does not wait: give each writer a folder
    of its own there.

    Args:
        lock: The path of the lock file. It is made here and removed at the end.

    Raises:
        OSError: The lock file cannot be made.
    """
    file = None if fcntl is None else _locked(lock)
    try:
        yield
    finally:
        if file is not None and fcntl is not None:
            lock.unlink(missing_ok=True)  # while it is held: what is removed is this very file
            with contextlib.suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_UN)  # a forked process may have the file open as well
            os.close(file)


def _locked(lock: Path) -> int:
    """Return the descriptor of the lock file, locked where there are locks, and still there."""
    assert fcntl is not None
    while True:
        file = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            if os.path.samestat(os.fstat(file), lock.stat()):
                return file
        except FileNotFoundError:  # its last holder removed it: another process may hold a new one
            pass
        except OSError as error:
            if error.errno in (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP):
                return file
            os.close(file)
            raise
        os.close(file)


def atomic_write(path: Path, content: bytes | str | Callable[[Path], object]) -> None:
    """Replace a file in one step: killed at any moment, the old one or the new one is there.

    The content goes to a name of its own in the same folder, then to the disk, and takes the name
    last. Two writers do not mix; the last to end stays. A writer that is killed leaves a file
    NAME.XXXXXXXXXXXX.new behind, which nothing reads.

    Args:
        path: The file to replace or to make; its folder must be there.
        content: Bytes, text (written as UTF-8), or a function that writes to the path it is given.

    Raises:
        OSError: The file cannot be written. The old one is as it was.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):  # /dev/full would be replaced
        raise FileExistsError(errno.EEXIST, "this is a device or a pipe, not a file", str(path))
    fresh = path.with_name(f"{path.name}.{secrets.token_hex(6)}.new")
    fresh.touch(exist_ok=False)  # a folder that cannot be written to is found before the work
    try:
        if callable(content):
            content(fresh)
        else:
            fresh.write_bytes(content.encode() if isinstance(content, str) else content)
        put_in_place(fresh, path)
    except OSError as error:
        error.filename = error.filename or str(path)  # a full disk names no file
        raise
    finally:
        fresh.unlink(missing_ok=True)


def put_in_place(fresh: Path, path: Path) -> None:
    """Rename a finished file or folder, its content first on the disk and its new name at the end.

    Args:
        fresh: A file, or a folder whose files are on the disk, in the same file system.
        path: The new name. A file that has it is replaced, a folder only where it is empty.

    Raises:
        OSError: It cannot be renamed, or not be brought to the disk.
    """
    _to_disk(fresh)
    fresh.replace(path)
    _to_disk(path.parent)


def _to_disk(path: Path) -> None:
    """Wait until a file or folder is on the disk; Windows cannot do that for a folder."""
    if path.is_dir() and not hasattr(os, "O_DIRECTORY"):
        return
    file = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def write(
    folder: str | Path, values: Mapping[str, Any], tensors: Mapping[str, Tensor],
    tables: Mapping[str, pl.DataFrame],
) -> Path:  # fmt: skip
    """Write a bundle, replacing the one that may lie there in one step.

    Args:
        folder: Where to: a folder that is new, empty, or holds a bundle. Another process that
            writes to it is waited for.
        values: What JSON can hold, by name.
        tensors: Tensors of any shape, by name.
        tables: Data frames by name; each becomes a file NAME-DIGEST.parquet.

    Returns:
        The folder.

    Raises:
        BundleError: The folder holds something that is not a bundle, or cannot be written.
    """
    folder = Path(folder)
    refuse_foreign(folder)
    parts = {"model.safetensors": save({k: t.contiguous() for k, t in tensors.items()})}
    for name, table in tables.items():
        buffer = io.BytesIO()
        table.write_parquet(buffer)
        parts[f"{name}.parquet"] = buffer.getvalue()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with alone(folder / LOCK):
            files = {}
            for name, content in parts.items():
                digest = hashlib.sha256(content).hexdigest()
                stem, _, ending = name.partition(".")
                path = folder / f"{stem}-{digest[:12]}.{ending}"
                files[name] = {"file": path.name, "sha256": digest, "bytes": len(content)}
                atomic_write(path, content)
            manifest = {"format": FORMAT, "values": dict(values), "files": files}
            manifest["sha256"] = _digest(manifest)
            atomic_write(folder / MANIFEST, _encode(manifest))
            _remove_unnamed(folder, {entry["file"] for entry in files.values()})
    except OSError as error:
        raise BundleError(
            f"cannot be written: {error.strerror}.", where=folder, fix="Choose another --out."
        ) from None
    return folder


def read(folder: str | Path) -> Bundle:
    """Read a bundle and verify every byte of it.

    A writer may replace the bundle meanwhile: what comes back is the old one or the new one, whole.

    Args:
        folder: The folder of a bundle. It is only read: no lock is taken, nothing is written.

    Returns:
        The bundle; its tensors are mapped from the file.

    Raises:
        BundleError: There is no bundle, or a part of it is missing or damaged; says what to do.
    """
    folder = Path(folder)
    manifest, stamp = _manifest(folder)
    while True:
        try:
            return _contents(folder, manifest)
        except FileNotFoundError as error:  # or a writer replaced the bundle meanwhile
            before, (manifest, stamp) = stamp, _manifest(folder)
            if stamp == before:
                raise _unreadable(Path(error.filename), error) from None
        except OSError as error:
            raise BundleError(f"cannot be read: {error.strerror}.", where=error.filename) from None


def _unreadable(path: Path, error: FileNotFoundError) -> BundleError:
    """Return the error for a part that is missing or cannot be mapped."""
    if path.exists():
        return BundleError(f"cannot be read: {error.strerror}.", where=path)
    return BundleError(
        "the file is missing from the bundle.", where=path, fix="Restore it, or train again."
    )


def _contents(folder: Path, manifest: dict[str, Any]) -> Bundle:
    """Return the parts that a manifest names, each verified."""
    paths = {name: folder / Path(entry["file"]).name for name, entry in manifest["files"].items()}
    for name, entry in manifest["files"].items():
        path = paths[name]
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != entry["sha256"]:
            raise BundleError(
                "the file is damaged: its SHA-256 is not the one in the manifest.",
                where=path, fix="Restore it from a backup, or train again.",
            )  # fmt: skip
    try:
        # mapped, not read: processes that serve the same bundle share these pages
        tensors = _mapped(paths.pop("model.safetensors"))
        tables = {
            name.removesuffix(".parquet"): pl.read_parquet(path.read_bytes())
            for name, path in paths.items()
        }
    except (KeyError, SafetensorError, pl.exceptions.PolarsError) as error:
        raise BundleError(
            f"a part cannot be read ({error}).", where=folder, fix="Train again."
        ) from None
    return Bundle(manifest["values"], tensors, tables)


def _mapped(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file, mapped; a file that is gone is a FileNotFoundError."""
    try:
        return load_file(path)
    except RuntimeError as error:  # what torch raises where a file cannot be opened or mapped
        # The file was there when it was verified. A writer may have removed it since, and another
        # may have written it again: whether it is there now proves nothing.
        reason = str(error).splitlines()[0].rstrip(".")
        raise FileNotFoundError(errno.ENOENT, reason, str(path)) from None


def stamp(folder: Path) -> tuple[int, int]:
    """Return a value that changes whenever a writer replaces the bundle.

    Args:
        folder: The folder of the bundle.

    Raises:
        OSError: There is no manifest in it.
    """
    state = (folder / MANIFEST).stat()
    return state.st_ino, state.st_mtime_ns


def _manifest(folder: Path) -> tuple[dict[str, Any], tuple[int, int]]:
    """Return the manifest, verified, and the stamp that the bundle had before it was read."""
    path = folder / MANIFEST
    try:
        written = stamp(folder)
        content = path.read_bytes()
        manifest = json.loads(content)
        version, digest = manifest["format"], manifest.pop("sha256")
    except FileNotFoundError:
        raise BundleError(
            "there is no bundle here: manifest.json is missing.",
            where=folder, fix="Make one with `foretaste train ... --out` or Recommender.save.",
        ) from None  # fmt: skip
    except NotADirectoryError:
        raise BundleError("is not a folder.", where=folder, fix="Name a bundle folder.") from None
    except OSError as error:
        raise BundleError(f"cannot be read: {error.strerror}.", where=path) from None
    except (ValueError, KeyError, AttributeError, TypeError):
        raise BundleError(
            "the manifest is damaged: it is not the JSON that foretaste writes.",
            where=path, fix="Restore it from a backup, or train again.",
        ) from None  # fmt: skip
    if isinstance(version, int) and version > FORMAT:
        raise BundleError(
            f"the bundle has format {version}, this foretaste reads up to {FORMAT}.",
            where=path, fix="Upgrade: pip install --upgrade foretaste.",
        )  # fmt: skip
    if digest != _digest(manifest) or content != _encode({**manifest, "sha256": digest}):
        raise BundleError(
            "the manifest is damaged: its SHA-256 is not the one it names.",
            where=path, fix="Restore it from a backup, or train again.",
        )  # fmt: skip
    return manifest, written


def _encode(manifest: Mapping[str, Any]) -> bytes:
    return json.dumps(manifest, indent=1).encode()


def _digest(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(_encode(manifest)).hexdigest()


def refuse_foreign(folder: Path) -> None:
    """Refuse to write over anything but a bundle.

    Args:
        folder: Where a bundle shall go. It may be new, empty, hold a bundle or what is left of one
            (its manifest, or files that a killed writer left), with other files beside a manifest.

    Raises:
        BundleError: It is a file, or a folder of other things.
    """
    if folder.is_dir():
        names = {path.name for path in folder.iterdir()}
        ours = {name for name in names if OURS.fullmatch(name)}
        if names == ours or (MANIFEST in names and (ours or _wrote(folder / MANIFEST))):
            return
    if folder.exists():
        raise BundleError(
            "exists and is not a bundle: nothing was written.",
            where=folder, fix="Choose another --out.",
        )  # fmt: skip


def _wrote(path: Path) -> bool:
    """Return whether a manifest is that of a bundle and not, say, of a web page."""
    try:
        return {"format", "values", "files", "sha256"} == json.loads(path.read_bytes()).keys()
    except (OSError, ValueError, AttributeError):
        return False


def _remove_unnamed(folder: Path, named: set[str]) -> None:
    """Remove parts of older bundles, which the manifest does not name."""
    for path in folder.iterdir():
        if path.name not in named | {LOCK} and OURS.fullmatch(path.name):
            path.unlink(missing_ok=True)
