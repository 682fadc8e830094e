"""Commands around the service: serve, retrain, keys."""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer

from foretaste import bundle as bundles
from foretaste.bundle import refuse_foreign
from foretaste.cli.options import Bundle, Json, Seed
from foretaste.cli.show import emit, say
from foretaste.errors import UsageError
from foretaste.recommending.fitting import load

DRAIN_SECONDS = 30
Database = Annotated[
    str | None,
    typer.Option("--db", help="URL of the store; an SQLite file beside the bundle if not given."),
]
keys = typer.Typer(help="Create, list and revoke the API keys of a service.", no_args_is_help=True)


def serve(
    bundle: Bundle,
    db: Database = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535)] = 8000,
    workers: Annotated[int, typer.Option(min=1, help="Processes that share the port.")] = 1,
    origin: Annotated[
        list[str] | None,
        typer.Option(help="A site whose pages may call the service (CORS); repeatable."),
    ] = None,
    log_level: Annotated[
        str, typer.Option(help="info (a line for each request) or warning (faults only).")
    ] = "info",
) -> None:
    """Serve recommendations over HTTP, with a page to see them on.

    Example: foretaste serve bundle --port 8000
    """
    database, current = db or beside(bundle), _service("releases").current(bundle)
    bundles.read(current)  # a damaged bundle is refused here, not in every worker
    store = _service("store").Store.open(database)
    has_keys = bool(store.listed_keys())
    store.close()
    if host not in _service("middleware").LOOPBACK and not has_keys:
        raise UsageError(
            f"--host {host}: without API keys the service listens on loopback only.",
            fix="Make one first: foretaste keys create.",
        )
    settings = {
        "bundle": str(bundle), "db": database, "needs_key": has_keys, "origins": origin or [],
        "log_level": log_level.upper(),
    }  # fmt: skip
    os.environ[_service("app").SETTINGS] = json.dumps(settings)  # workers are processes
    if not has_keys:
        say("No API keys: listening on loopback only. foretaste keys create makes one.")
    say(f"Serving {current} on http://{host}:{port}")
    with _metrics_of(workers):
        importlib.import_module("uvicorn").run(
            "foretaste.service.app:from_environment", factory=True, host=host, port=port,
            workers=workers, log_config=None, access_log=False, server_header=False,
            timeout_graceful_shutdown=DRAIN_SECONDS, timeout_worker_healthcheck=60,
            h11_max_incomplete_event_size=32 << 10,
        )  # fmt: skip


def retrain(
    bundle: Bundle,
    out: Annotated[Path | None, typer.Option(help="Folder of the new bundle.")] = None,
    db: Database = None,
    force: Annotated[
        bool, typer.Option("--force", help="Promote it whatever the comparison shows.")
    ] = False,
    back: Annotated[
        bool, typer.Option("--back", help="Serve again what was served before; train nothing.")
    ] = False,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Train again on the bundle's data and every event since, and serve it if it is not worse.

    It is promoted unless it is worse with 95 % certainty on the newest events, and refused where
    too few users have any (exit code 1). Running services swap to it within a second; no request
    fails.

    Example: foretaste retrain bundle --out bundle-2
    """
    promotion = _service("releases")
    if back:
        _report(as_json, f"Served again: {promotion.go_back(bundle)}", promoted=True)
        return
    if out is None:
        raise UsageError("--out is missing.", fix="Name the folder of the new bundle.")
    refuse_foreign(out)
    old = promotion.current(bundle)
    if out.resolve() == old.resolve():
        raise UsageError(f"--out {out} is what is served now.", fix="Choose another folder.")
    retraining, store = _service("retraining"), _service("store").Store.open(db or beside(bundle))
    served = load(old)
    compared = retraining.compare(served, store, seed=seed)
    fitted = retraining.retrain(served, store, seed=seed)
    fitted.metrics = {"newest_events": compared.summary()}
    fitted.save(out)
    not_worse = compared.verdict == "promoted"
    if promoted := not_worse or force:
        promotion.promote(bundle, out)
    words = f"{fitted.dataset!r} in {out}. {compared.sentence}"
    words += " Promoted all the same (--force)." if promoted and not not_worse else ""
    _report(as_json, words, promoted=promoted, **compared.summary())
    if not promoted:
        raise typer.Exit(1)


@keys.command("create")
def create_key(
    bundle: Bundle,
    name: Annotated[str, typer.Option(help="A name for the key, such as who uses it.")],
    scope: Annotated[
        str, typer.Option(help="read, write or admin; each includes those before it.")
    ],
    db: Database = None,
) -> None:
    """Create an API key; it is printed once, and only its SHA-256 is kept.

    Example: foretaste keys create bundle --name shop --scope write
    """
    typer.echo(_service("store").Store.open(db or beside(bundle)).create_key(name, scope))


@keys.command("list")
def list_keys(bundle: Bundle, db: Database = None, as_json: Json = False) -> None:
    """List the keys that were made, revoked ones too.

    Example: foretaste keys list bundle
    """
    found = _service("store").Store.open(db or beside(bundle)).listed_keys()
    if as_json:
        emit({"keys": [vars(key) for key in found]})
        return
    for key in found:
        state = f"revoked {_day(key.revoked)}" if key.revoked else f"since {_day(key.created)}"
        say(f"{key.name}  {key.scope}  {state}")


@keys.command("revoke")
def revoke_key(
    bundle: Bundle,
    name: Annotated[str, typer.Option(help="The name it was made with.")],
    db: Database = None,
) -> None:
    """Revoke an API key; running services refuse it within a second.

    Example: foretaste keys revoke bundle --name shop
    """
    _service("store").Store.open(db or beside(bundle)).revoke_key(name)
    say(f"Revoked: {name}")


def beside(bundle: Path) -> str:
    """Return the URL of the SQLite file beside a bundle.

    Args:
        bundle: The folder of the bundle.
    """
    path = bundle.resolve()
    return f"sqlite:///{path.with_name(path.name + '.sqlite')}"


@contextmanager
def _metrics_of(workers: int) -> Iterator[None]:
    """Make a folder in which several workers count together, and remove it when they end.

    One worker counts in memory: it ends by its signal and could not remove the folder.
    """
    name = _service("middleware").METRICS_FOLDER
    if workers == 1:
        yield
        return
    with TemporaryDirectory(prefix="foretaste-metrics-", ignore_cleanup_errors=True) as folder:
        os.environ[name] = folder  # workers are processes, and read it as they start
        yield


def _report(as_json: bool, words: str, **more: Any) -> None:
    """Print a sentence, or one JSON object with it and more."""
    if as_json:
        emit({"said": words, **more})
    else:
        say(words)


def _day(ms: int) -> str:
    """Return the day of a time in milliseconds."""
    return datetime.fromtimestamp(ms / 1000, UTC).date().isoformat()


def _service(module: str) -> Any:
    """Return a module of the service; what it imports is an optional part of the installation."""
    try:
        return importlib.import_module(f"foretaste.service.{module}")
    except ModuleNotFoundError as error:
        raise UsageError(
            f"the service needs {error.name}.", fix="pip install 'foretaste[serve]'."
        ) from None
