"""The bundle: a directory that holds a trained recommender as data, never as code.

`manifest.json` names every other file with its SHA-256 and carries one of its own. New files are
written beside the old ones under names of their own, and the manifest is replaced last, in one
rename: killed at any moment, the directory holds the old bundle or the new one.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from foretaste.errors import BundleError

__version__ = "0.1.0"  # of foretaste; a bundle says what wrote it
FORMAT = 1
MANIFEST = "manifest.json"
OURS = re.compile(r"\w+-[0-9a-f]{12}\.(safetensors|parquet)(\.new)?|manifest\.json\.new")


@dataclass(frozen=True, eq=False)
class Bundle:
    """What a bundle holds: JSON values, tensors by name, tables by name."""

    values: dict[str, Any]
    tensors: dict[str, Tensor]
    tables: dict[str, pl.DataFrame]


def write(
    folder: str | Path, values: Mapping[str, Any], tensors: Mapping[str, Tensor],
    tables: Mapping[str, pl.DataFrame],
) -> Path:  # fmt: skip
    """Write a bundle, replacing the one that may lie there in one step.

    Raises BundleError where the folder holds something that is not a bundle, or cannot be written.
    """
    folder = Path(folder)
    refuse_foreign(folder)
    parts = {"model.safetensors": save({k: t.contiguous() for k, t in tensors.items()})}
    for name, table in tables.items():
        buffer = io.BytesIO()
        table.write_parquet(buffer)
        parts[f"{name}.parquet"] = buffer.getvalue()
    files = {}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in parts.items():
            digest = hashlib.sha256(content).hexdigest()
            stem, _, ending = name.partition(".")
            path = folder / f"{stem}-{digest[:12]}.{ending}"
            files[name] = {"file": path.name, "sha256": digest, "bytes": len(content)}
            _write_durably(path, content)
        manifest = {"format": FORMAT, "values": dict(values), "files": files}
        manifest["sha256"] = _digest(manifest)
        _write_durably(folder / MANIFEST, _encode(manifest))
    except OSError as error:
        raise BundleError(
            f"cannot be written: {error.strerror}.", where=folder, fix="Choose another --out."
        ) from None
    _remove_unnamed(folder, {entry["file"] for entry in files.values()})
    return folder


def read(folder: str | Path) -> Bundle:
    """Read a bundle and verify every byte of it; BundleError says what is wrong and what to do."""
    folder = Path(folder)
    manifest, stamp = _manifest(folder)
    while True:
        try:
            return _contents(folder, manifest)
        except FileNotFoundError as error:  # or a writer replaced the bundle meanwhile
            before, (manifest, stamp) = stamp, _manifest(folder)
            if stamp == before:
                raise BundleError(
                    "the file is missing from the bundle.",
                    where=error.filename, fix="Restore it, or train again.",
                ) from None  # fmt: skip
        except OSError as error:
            raise BundleError(f"cannot be read: {error.strerror}.", where=error.filename) from None


def _contents(folder: Path, manifest: dict[str, Any]) -> Bundle:
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
    try:
        return load_file(path)
    except RuntimeError:  # torch's word for a file that cannot be opened
        path.open("rb").close()  # gone since it was verified: FileNotFoundError
        raise


def stamp(folder: Path) -> tuple[int, int]:
    """Changes whenever a writer replaces the bundle."""
    state = (folder / MANIFEST).stat()
    return state.st_ino, state.st_mtime_ns


def _manifest(folder: Path) -> tuple[dict[str, Any], tuple[int, int]]:
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
    """A bundle goes into a new or empty folder, or over a bundle; BundleError for anything else."""
    if folder.is_dir():
        names = {path.name for path in folder.iterdir()}
        ours = {name for name in names if OURS.fullmatch(name)}
        if names == ours or (ours and MANIFEST in names):
            return
    if folder.exists():
        raise BundleError(
            "exists and is not a bundle: nothing was written.",
            where=folder, fix="Choose another --out.",
        )  # fmt: skip


def _write_durably(path: Path, content: bytes) -> None:
    fresh = path.with_name(path.name + ".new")
    with fresh.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _remove_unnamed(folder: Path, named: set[str]) -> None:
    for path in folder.iterdir():
        if path.name not in named and OURS.fullmatch(path.name):
            path.unlink(missing_ok=True)
