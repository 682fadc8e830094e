"""The catalog of public data sets: each one's folder, its files fetched if need be, and read."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from foretaste.bundle import alone
from foretaste.data.catalog import ALIASES, CATALOG, CatalogEntry
from foretaste.data.dataset import Dataset
from foretaste.data.download import Progress, move_in
from foretaste.errors import FetchError, UsageError


def data_folder(folder: str | Path | None = None) -> Path:
    """The folder of all data sets: the one given, $FORETASTE_DATA, or the user's cache folder."""
    given = folder or os.environ.get("FORETASTE_DATA")
    if given:
        return Path(given).expanduser()
    cache = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not cache.is_absolute():  # the XDG specification says to ignore a relative one
        cache = Path.home() / ".cache"
    return cache / "foretaste" / "data"


def entry(name: str) -> CatalogEntry:
    """The catalog's entry of that name."""
    name = ALIASES.get(name, name)
    if name not in CATALOG:
        known = ", ".join(CATALOG)
        raise UsageError(f"no data set {name!r} in the catalog.", fix=f"Use one of {known}.")
    return CATALOG[name]


def fetch(
    name: str, folder: str | Path | None = None, progress: Progress | None = None,
    offline: bool = False, say: Callable[[str], None] | None = None,
) -> Path:  # fmt: skip
    """The folder with the files of a data set, downloaded unless they are there already.

    folder: of all data sets.  progress: takes bytes done and in all (0: not known).  say: takes one
    line for each source that fails.
    """
    return fetch_entry(entry(name), data_folder(folder), progress, offline, say)


def fetch_entry(
    entry: CatalogEntry, root: Path, progress: Progress | None = None, offline: bool = False,
    say: Callable[[str], None] | None = None,
) -> Path:  # fmt: skip
    """The files of any entry; killed at any moment, nothing half-done counts as there."""
    target = root / entry.name
    if _complete(entry, target):
        return target
    if offline:
        raise _not_fetched(entry, target, ["nothing, offline as asked"])
    try:
        root.mkdir(parents=True, exist_ok=True)
        with alone(root / f".{entry.name}.lock"):
            if not _complete(entry, target):  # another process may have been first
                _from_sources(entry, target, progress, say)
    except BrokenPipeError:  # from `say` or `progress`: nobody listens any more
        raise
    except OSError as error:
        raise FetchError(
            f"cannot be written to: {error}.", where=root,
            fix="Make room there, or name another folder in FORETASTE_DATA.",
        ) from error  # fmt: skip
    return target


def _complete(entry: CatalogEntry, target: Path) -> bool:
    """Whether every needed file is there; FetchError when one is there with another content."""
    needed = [file for file in entry.files if file.needed]
    present = [file for file in needed if (target / file.name).exists()]
    for file in present:
        path = target / file.name
        if wrong := file.wrong(path):
            raise FetchError(
                wrong, where=path,
                fix=f"Move it away and fetch again, or read the folder as it is: "
                f"foretaste.read({str(target)!r}).",
            )  # fmt: skip
    return len(present) == len(needed)


def _from_sources(
    entry: CatalogEntry, target: Path, progress: Progress | None, say: Callable[[str], None] | None
) -> None:
    tried: list[str] = []
    work = target.with_name(f".{entry.name}.fetching")
    fresh = work / "fresh"
    for source in entry.sources:
        start = time.monotonic()
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        try:
            source.bring([file.name for file in entry.files], work, fresh, progress)
            _check_fresh(entry, fresh)
        except FetchError as error:
            seconds = time.monotonic() - start
            tried.append(f"{source.place}: {error.what.rstrip('.')} ({seconds:.1f} s)")
            if say is not None:
                say(f"{entry.name}: tried {tried[-1]}")
            continue
        move_in(fresh, target)
        shutil.rmtree(work, ignore_errors=True)
        return
    shutil.rmtree(fresh)
    if not list(work.glob("*.part")):  # half a download stays, to be gone on with
        shutil.rmtree(work, ignore_errors=True)
    raise _not_fetched(entry, target, tried)


def _check_fresh(entry: CatalogEntry, fresh: Path) -> None:
    for file in entry.files:
        path = fresh / file.name
        if not path.exists():
            if file.needed:
                raise FetchError(f"{file.name} is not in it.")
        elif wrong := file.wrong(path):
            raise FetchError(f"{file.name}: {wrong}")


def _not_fetched(entry: CatalogEntry, target: Path, tried: list[str]) -> FetchError:
    needed = [file.name for file in entry.files if file.needed]
    lacking = [name for name in needed if not (target / name).exists()]
    put = [f"Get {entry.title} from {entry.home} and put"]
    put += [f"  {name} at {target / name}" for name in lacking]
    put += [f"or set FORETASTE_DATA to the folder that has a folder {entry.name}."]
    return FetchError(
        f"{entry.name} cannot be fetched; tried {'; '.join(tried)}.", fix="\n".join(put)
    )


def load_dataset(
    name: str, folder: str | Path | None = None, progress: Progress | None = None,
    offline: bool = False, say: Callable[[str], None] | None = None,
) -> Dataset:  # fmt: skip
    """A data set of the catalog, fetched if need be and read."""
    found = entry(name)
    return replace(found.read(fetch(name, folder, progress, offline, say)), name=found.name)
