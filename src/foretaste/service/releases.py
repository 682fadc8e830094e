"""Which bundle is served in the name of another: one small file beside it, replaced in one step."""

from __future__ import annotations

import json
import os
from pathlib import Path

from foretaste.errors import BundleError, UsageError


def promoted(bundle: Path) -> list[Path]:
    """The bundles promoted in the name of this one, the newest last."""
    path = _record(bundle)
    try:
        return [Path(line) for line in json.loads(path.read_text())]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError):
        raise BundleError(
            "the list of promoted bundles cannot be read.",
            where=path, fix="Delete it to serve the bundle itself.",
        ) from None  # fmt: skip


def current(bundle: Path) -> Path:
    """The bundle that is served."""
    return (promoted(bundle) or [bundle])[-1]


def promote(bundle: Path, successor: Path) -> None:
    """Serve another bundle from now on: running services swap to it."""
    _write(bundle, [*promoted(bundle), successor.resolve()])


def go_back(bundle: Path) -> Path:
    """Serve what was served before the last promotion; UsageError where there was none."""
    before = promoted(bundle)
    if not before:
        raise UsageError(f"{bundle} is what is served: nothing was promoted.", fix="Retrain first.")
    _write(bundle, before[:-1])
    return current(bundle)


def _record(bundle: Path) -> Path:
    path = bundle.resolve()
    return path.with_name(path.name + ".promoted.json")


def _write(bundle: Path, served: list[Path]) -> None:
    path = _record(bundle)
    fresh = path.with_name(path.name + ".new")
    with fresh.open("w") as file:
        json.dump([str(one) for one in served], file)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
