"""Commands around the service: serve."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Annotated, Any

import typer

from foretaste.cli.options import Bundle
from foretaste.cli.show import say
from foretaste.errors import UsageError

LOOPBACK = ("127.0.0.1", "localhost", "::1")
Database = Annotated[
    str | None,
    typer.Option("--db", help="URL of the store; an SQLite file beside the bundle if not given."),
]


def serve(
    bundle: Bundle,
    db: Database = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535)] = 8000,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 1,
) -> None:
    """Serve recommendations over HTTP, and the page to see them on.

    Example: foretaste serve bundle --port 8000
    """
    service = _service("live"), _service("store"), _service("guard"), _service("http")
    live, store, guard, http = service
    served = live.Live(store.Store.open(db or beside(bundle)), bundle)
    open_to_all = host in LOOPBACK and not served.store.listed_keys()
    if host not in LOOPBACK and not served.store.listed_keys():
        raise UsageError(
            f"--host {host}: without API keys the service listens on loopback only.",
            fix="Make one first: foretaste keys create.",
        )
    if open_to_all:
        say("No API keys: listening on loopback only. foretaste keys create makes one.")
    say(f"Serving {bundle} on http://{host}:{port}")
    app = http.build(served, guard.Rules(needs_key=not open_to_all))
    importlib.import_module("uvicorn").run(
        app, host=host, port=port, log_level="warning", access_log=False, server_header=False
    )


def beside(bundle: Path) -> str:
    """The URL of the SQLite file beside a bundle."""
    path = bundle.resolve()
    return f"sqlite:///{path.with_name(path.name + '.sqlite')}"


def _service(module: str) -> Any:
    """A module of the service; the core works without what it needs."""
    try:
        return importlib.import_module(f"foretaste.service.{module}")
    except ModuleNotFoundError as error:
        raise UsageError(
            f"the service needs {error.name}.", fix="pip install 'foretaste[serve]'."
        ) from None
