"""Fetching: the folder of each public data set, its files downloaded where they are missing.

The module does not know what the sources are (`catalog.py`) or how they are read (`download.py`).
"""

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
    """Return the folder of all data sets.

    Args:
        folder: The folder; None for that in the environment variable FORETASTE_DATA, or else
            foretaste/data in the user's cache folder.
    """
    given = folder or os.environ.get("FORETASTE_DATA")
    if given:
        return Path(given).expanduser()
    cache = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not cache.is_absolute():  # the XDG specification says to ignore a relative one
        cache = Path.home() / ".cache"
    return cache / "foretaste" / "data"


def entry(name: str) -> CatalogEntry:
    """Return the entry of a data set in the catalog.

    Args:
        name: Its name, such as "ml-100k".

    Raises:
        UsageError: There is no data set of that name.
    """
    name = ALIASES.get(name, name)
    if name not in CATALOG:
        known = ", ".join(CATALOG)
        raise UsageError(f"no data set {name!r} in the catalog.", fix=f"Use one of {known}.")
    return CATALOG[name]


def fetch(
    name: str, folder: str | Path | None = None, progress: Progress | None = None,
    offline: bool = False, say: Callable[[str], None] | None = None,
) -> Path:  # fmt: skip
    """Return the folder with the files of a data set, downloaded where they are missing.

    Args:
        name: A data set of the catalog, such as "ml-100k" or "ml-latest-small".
        folder: The folder of all data sets; None for FORETASTE_DATA or the user's cache folder.
        progress: Called with the bytes done and the bytes in all (0 where they are not known).
        offline: Whether only files that are there already will do.
        say: Called with a line for each source that fails.

    Raises:
        UsageError: There is no data set of that name.
        FetchError: It cannot be downloaded, or a file is not what was published; says what to do.

    Example:
        >>> import contextlib
        >>> import foretaste as ft
        >>> with contextlib.suppress(ft.ForetasteError):  # where it was never fetched
        ...     folder = ft.fetch("ml-100k", offline=True)
    """
    return fetch_entry(entry(name), data_folder(folder), progress, offline, say)


def fetch_entry(
    entry: CatalogEntry, root: Path, progress: Progress | None = None, offline: bool = False,
    say: Callable[[str], None] | None = None,
) -> Path:  # fmt: skip
    """Return the folder of an entry with its files, downloaded where they are missing.

    A process that is killed at any moment leaves no half-done file under a final name.

    Args:
        entry: The data set.
        root: The folder of all data sets.
        progress: Called with the bytes done and the bytes in all (0 where they are not known).
        offline: Whether only files that are there already will do.
        say: Called with a line for each source that fails.

    Raises:
        FetchError: It cannot be downloaded, or a file is not what was published.
    """
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
    except BrokenPipeError:  # raised by `say` or `progress`: the reader of the output is gone
        raise
    except OSError as error:
        raise FetchError(
            f"cannot be written to: {error}.", where=root,
            fix="Make room there, or name another folder in FORETASTE_DATA.",
        ) from error  # fmt: skip
    return target


def _complete(entry: CatalogEntry, target: Path) -> bool:
    """Return whether every needed file is there; a file with another content is a FetchError."""
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
    if not list(work.glob("*.part")):  # the next call goes on with half a download
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
    """Return a data set of the catalog, downloaded where it is missing.

    Args:
        name: A data set of the catalog, such as "ml-100k" or "ml-latest-small".
        folder: The folder of all data sets; None for FORETASTE_DATA or the user's cache folder.
        progress: Called with the bytes done and the bytes in all (0 where they are not known).
        offline: Whether only files that are there already will do.
        say: Called with a line for each source that fails.

    Raises:
        UsageError: There is no data set of that name.
        FetchError: It cannot be downloaded, or a file is not what was published; says what to do.

    Example:
        >>> import contextlib
        >>> import foretaste as ft
        >>> with contextlib.suppress(ft.ForetasteError):  # where it was never fetched
        ...     ratings = ft.load_dataset("ml-latest-small", offline=True)
    """
    found = entry(name)
    return replace(found.read(fetch(name, folder, progress, offline, say)), name=found.name)
