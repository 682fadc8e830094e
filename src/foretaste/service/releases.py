"""Which bundle is served in the name of another: one small file beside it, replaced in one step."""

from __future__ import annotations

import json
from pathlib import Path

from foretaste.bundle import alone, atomic_write
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
    """Serve another bundle from now on: running services swap to it.

    Args:
        bundle: The bundle in whose name the other is served.
        successor: The bundle to serve.

    Raises:
        BundleError: The list of promoted bundles cannot be read.
    """
    with alone(_lock(bundle)):  # two promotions at once: neither is lost
        _write(bundle, [*promoted(bundle), successor.resolve()])


def go_back(bundle: Path) -> Path:
    """Serve what was served before the last promotion.

    Args:
        bundle: The bundle in whose name another is served.

    Returns:
        The bundle that is served from now on.

    Raises:
        UsageError: Nothing was promoted.
        BundleError: The list of promoted bundles cannot be read.
    """
    with alone(_lock(bundle)):
        before = promoted(bundle)
        if not before:
            raise UsageError(
                f"{bundle} is what is served: nothing was promoted.", fix="Retrain first."
            )
        _write(bundle, before[:-1])
        return current(bundle)


def _record(bundle: Path) -> Path:
    path = bundle.resolve()
    return path.with_name(path.name + ".promoted.json")


def _lock(bundle: Path) -> Path:
    record = _record(bundle)
    return record.with_name(record.name + ".lock")


def _write(bundle: Path, served: list[Path]) -> None:
    atomic_write(_record(bundle), json.dumps([str(one) for one in served]))
