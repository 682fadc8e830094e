"""The routes: convert, call one function, convert back."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any

import torch
from fastapi import FastAPI, Header, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse
from fastapi.staticfiles import StaticFiles
from pydantic import Field, StringConstraints
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from foretaste import __version__
from foretaste.errors import ForetasteError, ModelError, UnknownIdError, UsageError
from foretaste.service import schemas as s
from foretaste.service.batching import Gathering
from foretaste.service.middleware import Guard, JsonLines, Metrics, Rules, log, refusal
from foretaste.service.store import ConflictError, Store
from foretaste.service.tenant import Listing, Live

TOGETHER = 16  # lists made at once: more would make the first wait too long
SETTINGS = "FORETASTE_SERVE"  # environment of the workers
WATCH_SECONDS = 0.5
WEB = Path(__file__).parent / "web"
STATUS = {ConflictError: 409, UnknownIdError: 404, ModelError: 404, UsageError: 400}
CODES = {404: "not_found", 409: "conflict", 400: "bad_request"}
REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": s.Refusal, "description": HTTPStatus(status).phrase}
    for status in (400, 401, 403, 404, 409, 413, 415, 422, 500, 503)
}
Text = Annotated[str, StringConstraints(max_length=200)]
Limit = Annotated[int, Field(ge=1, le=100)]
Cursor = Annotated[str, StringConstraints(pattern=r"^\d{1,9}$")]
Once = Annotated[
    str | None,
    Header(alias="Idempotency-Key", min_length=1, max_length=128, pattern=r"^[\x21-\x7e]+$"),
]


def from_environment() -> FastAPI:
    """The application as `foretaste serve` describes it, in each of its worker processes."""
    settings = json.loads(os.environ[SETTINGS])
    torch.set_num_threads(1)  # requests run beside each other, not each on every core
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines())
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    log.setLevel(settings["log_level"])
    live = Live(Store.open(settings["db"]), Path(settings["bundle"]))
    return build(live, Rules(settings["needs_key"], settings["origins"]))


def build(live: Live, rules: Rules) -> FastAPI:
    """The application that serves a bundle and a store."""
    metrics = Metrics()

    @asynccontextmanager
    async def running(_: FastAPI) -> AsyncIterator[None]:
        watching = asyncio.create_task(_watch(live, metrics))
        yield
        watching.cancel()
        live.store.close()

    app = FastAPI(
        title="foretaste", version=__version__, lifespan=running, responses=REFUSALS,
        docs_url=None, redoc_url=None, openapi_url="/api/openapi.json",
    )  # fmt: skip
    app.add_middleware(Guard, store=live.store, rules=rules, metrics=metrics)
    if rules.origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=rules.origins,
            allow_methods=["GET", "POST", "PUT", "DELETE"],
            allow_headers=["Authorization", "Content-Type", "Idempotency-Key", "X-API-Key"],
            expose_headers=["X-Request-Id"],
        )  # fmt: skip
    app.add_exception_handler(ForetasteError, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _no_route)
    _asking(app, live)
    _telling(app, live)
    _health(app, live, metrics)
    if WEB.is_dir():
        app.mount("/", StaticFiles(directory=WEB, html=True))
    return app


async def _watch(live: Live, metrics: Metrics) -> None:
    """Swap in what is promoted or described while requests go on; one line an outage."""
    failing = False
    while True:
        await asyncio.sleep(WATCH_SECONDS)
        try:
            if await run_in_threadpool(live.refresh):
                metrics.swaps.inc()
        except Exception as error:
            if not failing:
                why = (str(error) or type(error).__name__).splitlines()[0]
                log.error("what is current cannot be served, what was is served on: %s", why)
            failing = True
        else:
            if failing:
                log.warning("what is current is served again")
            failing = False


def _asking(app: FastAPI, live: Live) -> None:
    gathering = Gathering[s.Recommend, Listing](live.recommend_all, most=TOGETHER)

    async def listed(asked: s.Recommend, request: Request) -> Response:
        if asked.plain:
            listing = await gathering.ask(asked)
        else:  # a filter takes longer: others need not wait for it
            listing = await run_in_threadpool(live.recommend, asked)
        return _json_text(listing.json(request.state.request_id))

    @app.post("/api/recommend", response_model=s.Recommended)
    async def recommend(asked: s.Recommend, request: Request) -> Response:
        return await listed(asked, request)

    @app.get("/api/recommend/{user}", response_model=s.Recommended)
    async def recommend_user(
        request: Request, user: s.PathId, k: s.Many = 10, where: s.Condition | None = None,
        diversity: s.Share = 0.0, explain: bool = False,
    ) -> Response:  # fmt: skip
        asked = s.Recommend(user=user, k=k, where=where, diversity=diversity, explain=explain)
        return await listed(asked, request)

    @app.post("/api/predict", response_model=s.Predictions)
    def predict(asked: s.Predict) -> Response:
        return _json(live.predict(asked))

    @app.post("/api/explain", response_model=s.Explained)
    def explain(asked: s.Explain) -> Response:
        return _json(live.explain(asked))

    @app.get("/api/items/{item}", response_model=s.Item)
    def item(item: s.PathId) -> Response:
        return _json(live.item(item))

    @app.get("/api/items/{item}/similar", response_model=s.Similar)
    def similar(item: s.PathId, k: s.Many = 10) -> Response:
        return _json_text(live.similar(item, k).json())

    @app.get("/api/items", response_model=s.Items)
    def items(
        q: Text = "", where: s.Condition | None = None, cursor: Cursor = "0", limit: Limit = 20
    ) -> Response:
        return _json(live.find(q, where, int(cursor), limit))

    @app.get("/api/columns", response_model=list[s.Column], response_model_exclude_none=True)
    def columns() -> Response:
        return _json(live.served.catalogue.columns)

    @app.get("/api/map", response_model=s.Map)
    def places() -> Response:
        return _json({"items": live.served.map})

    @app.get("/api/card")
    def card() -> dict[str, Any]:
        return live.card()


def _telling(app: FastAPI, live: Live) -> None:
    def tell(request: Request, feedback: s.Feedbacks, key: Once, overwrite: bool) -> s.Accepted:
        many = feedback if isinstance(feedback, list) else [feedback]
        body = json.dumps([one.model_dump() for one in many])
        client = request.state.client
        accepted = live.remember(many, overwrite=overwrite, key=key, body=body, client=client)
        return s.Accepted(accepted=accepted)

    @app.put("/api/feedback")
    def overwrite_feedback(request: Request, feedback: s.Feedbacks, key: Once = None) -> s.Accepted:
        return tell(request, feedback, key, overwrite=True)

    @app.post("/api/feedback")
    def add_feedback(request: Request, feedback: s.Feedbacks, key: Once = None) -> s.Accepted:
        return tell(request, feedback, key, overwrite=False)

    @app.get("/api/users/{user}/feedback", response_model=s.History)
    def feedback_of(user: s.PathId) -> Response:
        return _json({"user": user, "entries": live.history(user)})

    @app.delete("/api/users/{user}/feedback")
    def remove_feedback(user: s.PathId) -> s.Removed:
        return s.Removed(removed=live.store.remove_events(user))

    @app.delete("/api/users/{user}")
    def remove_user(user: s.PathId) -> s.Removed:
        return s.Removed(removed=live.store.remove_events(user, and_user=True))

    @app.put("/api/users/{user}")
    def describe_user(user: s.PathId, description: s.Description) -> s.Accepted:
        live.store.describe("users", user, description.fields)
        return s.Accepted(accepted=1)

    @app.put("/api/items/{item}")
    def describe_item(item: s.PathId, description: s.Description) -> s.Accepted:
        live.store.describe("items", item, description.fields)
        return s.Accepted(accepted=1)


def _health(app: FastAPI, live: Live, metrics: Metrics) -> None:
    @app.get("/health/live")
    async def alive() -> dict[str, str]:  # on the loop: it needs no free thread
        return {"status": "live"}

    @app.get("/health/ready")
    def ready() -> dict[str, str]:
        live.store.ping()
        return {"status": "ready", "model_version": live.served.version}

    @app.get("/metrics", include_in_schema=False)
    def prometheus() -> Response:
        return Response(metrics.text(), media_type="text/plain; version=0.0.4")


def _json(value: Any) -> Response:
    """Values of our own making: checked by tests against the schema, not at every request."""
    return _json_text(json.dumps(value, allow_nan=False))


def _json_text(text: str) -> Response:
    return Response(text, media_type="application/json")


async def _refused(_: Request, error: Exception) -> JSONResponse:
    status = next((code for kind, code in STATUS.items() if isinstance(error, kind)), None)
    if status is None or not isinstance(error, ForetasteError):
        raise error  # not the client's fault: the guard logs it and says nothing of it
    return JSONResponse(refusal(CODES[status], error.what, fix=error.fix), status)


async def _invalid(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    said = f"{first['msg']}."
    return JSONResponse(refusal("invalid", said, where=where, fix="See /api/openapi.json."), 422)


async def _no_route(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    what = str(error.detail).lower().rstrip(".") + "."
    code = what.rstrip(".").replace(" ", "_")
    return JSONResponse(
        refusal(code, what, fix="See /api/openapi.json."), error.status_code, error.headers
    )
