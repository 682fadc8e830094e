"""What stands before every route: keys, limits, request ids, headers, metrics and the log."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from foretaste.service.store import SCOPES, Store, digest

log = logging.getLogger("foretaste.service")

LARGEST_BODY = 1 << 20  # bytes
LONGEST_TARGET = 16 << 10  # bytes of path and query
BODY_SECONDS, ANSWER_SECONDS = 10.0, 30.0
TRUSTED_FOR = 1.0  # seconds that a key is remembered; a revoked one is refused after them
METRICS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"  # the name is prometheus_client's
LOGGED = ("request_id", "method", "route", "status", "ms")
LOOPBACK = ("127.0.0.1", "localhost", "::1")
OPEN = ("/health/",)  # needs no key; nor does the page, which holds no data
HEADERS = [
    (name.encode(), value.encode())
    for name, value in {
        "x-content-type-options": "nosniff",
        "x-frame-options": "DENY",
        "referrer-policy": "no-referrer",
        "cross-origin-resource-policy": "same-origin",
        "cross-origin-opener-policy": "same-origin",
        "permissions-policy": "camera=(), geolocation=(), microphone=()",
        "content-security-policy": (
            "default-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; "
            "frame-ancestors 'none'; object-src 'none'"
        ),
        "cache-control": "no-store",
    }.items()
]


class Refused(Exception):
    """The request stops here: status, code, what, fix."""

    def __init__(self, status: int, code: str, what: str, fix: str = "") -> None:
        self.status, self.code, self.what, self.fix = status, code, what, fix
        super().__init__(what)


def refusal(code: str, what: str, *, where: str = "", fix: str = "") -> dict[str, Any]:
    """The one body of every error."""
    return {"error": {"code": code, "what": what, "where": where, "fix": fix}}


@dataclass(frozen=True)
class Rules:
    """Who may come in.  needs_key: False only on loopback.  origins: other sites' pages (CORS)."""

    needs_key: bool
    origins: Sequence[str] = ()


class JsonLines(logging.Formatter):
    """One JSON object a line: when, how bad, what, and what is known of the request."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line = {"time": round(record.created, 3), "level": record.levelname.lower()}
        said = record.getMessage()
        line |= {"message": said} if said else {}
        line |= {k: v for k, v in vars(record).items() if k in LOGGED}
        line |= {"error": self.formatException(record.exc_info)} if record.exc_info else {}
        return json.dumps(line)


class Metrics:
    """What Prometheus asks for: of this process, or of all workers where they share a folder.

    The folder is that of prometheus_client's multiprocess mode, PROMETHEUS_MULTIPROC_DIR, which
    must be set before prometheus_client is imported. Counters of workers that died still count.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "foretaste_requests", "Requests by route, method and status.",
            ["route", "method", "status"], registry=self.registry,
        )  # fmt: skip
        self.seconds = Histogram(
            "foretaste_request_seconds", "Time to answer, by route.", ["route"],
            registry=self.registry,
            buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
        )  # fmt: skip
        self.in_flight = Gauge(
            "foretaste_requests_in_flight", "Requests being answered.", registry=self.registry,
            multiprocess_mode="livesum",
        )  # fmt: skip
        self.swaps = Counter("foretaste_swaps", "Bundles swapped in.", registry=self.registry)

    def text(self) -> bytes:
        """Return every metric in Prometheus's text format."""
        folder = os.environ.get(METRICS_FOLDER)
        if folder is None:
            return generate_latest(self.registry)
        for path in Path(folder).glob("gauge_live*_*.db"):
            if not _is_alive(pid := int(path.stem.rpartition("_")[2])):
                mark_process_dead(pid, folder)  # what it was answering, it is not any more
        of_all = CollectorRegistry()
        MultiProcessCollector(of_all, folder)
        return generate_latest(of_all)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)  # sends nothing
    except ProcessLookupError:
        return False
    except PermissionError:  # it is another user's
        return True
    return True


@dataclass
class Exchange:
    """One request and what became of it."""

    scope: Scope
    id: str
    status: int = 0
    started: float = field(default_factory=time.perf_counter)

    @property
    def route(self) -> str:
        """The path as it is declared: few values, whatever clients ask for."""
        return getattr(self.scope.get("route"), "path", "other")


class Guard:
    """ASGI middleware: lets a request in, or answers it with a refusal."""

    def __init__(self, app: ASGIApp, *, store: Store, rules: Rules, metrics: Metrics) -> None:
        self.app, self.store, self.rules, self.metrics = app, store, rules, metrics
        self._trusted: dict[str, tuple[float, str | None]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        exchange = Exchange(scope, uuid.uuid4().hex)
        scope["state"] = {**scope.get("state", {}), "request_id": exchange.id, "client": ""}
        answer = _Answer(send, exchange)
        self.metrics.in_flight.inc()
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                _route_undecoded(scope)
                await self._let_in(scope, headers)
                body = await _body(scope, headers, receive)
                await self.app(scope, _once(body, receive), answer.send)
        except Refused as refused:
            await answer.refuse(refused)
        except TimeoutError:
            await answer.refuse(Refused(503, "timeout", "the answer took too long.", "Try again."))
        except Exception:
            log.exception("request failed", extra={"request_id": exchange.id})
            await answer.refuse(Refused(500, "internal", "something went wrong here.",
                                        f"The log has request {exchange.id}."))  # fmt: skip
        finally:
            self.metrics.in_flight.dec()
            self._note(exchange)

    async def _let_in(self, scope: Scope, headers: Headers) -> None:
        path, method = scope["path"], scope["method"]
        if len(scope.get("raw_path") or b"") + len(scope["query_string"]) > LONGEST_TARGET:
            raise Refused(414, "too_long", "the address is too long.", "Send a body instead.")
        if not self.rules.needs_key:
            host = headers.get("host", "").rsplit(":", 1)[0].strip("[]")
            if host not in LOOPBACK:  # a site that renames itself to 127.0.0.1
                raise Refused(403, "forbidden", "this service answers on loopback only.",
                              "Make a key: foretaste keys create.")  # fmt: skip
            return
        if path.startswith(OPEN) or not path.startswith(("/api/", "/metrics")):
            return
        scheme, _, token = headers.get("authorization", "").partition(" ")
        token = token if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        scope_held = await self._scope_of(token) if token else None
        if scope_held is None:
            raise Refused(401, "unauthorized", "a valid API key is missing.",
                          "Send it as Authorization: Bearer KEY.")  # fmt: skip
        needed = _scope_for(method, path)
        if SCOPES.index(scope_held) < SCOPES.index(needed):
            raise Refused(403, "forbidden", f"the key may {scope_held}; this needs {needed}.",
                          f"Use a key of scope {needed}.")  # fmt: skip
        scope["state"]["client"] = digest(token)

    async def _scope_of(self, token: str) -> str | None:
        now = time.monotonic()
        until, held = self._trusted.get(token, (0.0, None))
        if until < now:
            held = await run_in_threadpool(self.store.scope_of, token)
            if held is not None:  # guesses are not worth remembering
                self._trusted[token] = (now + TRUSTED_FOR, held)
        return held

    def _note(self, exchange: Exchange) -> None:
        seconds = time.perf_counter() - exchange.started
        method = exchange.scope["method"]
        method = method if method in ("GET", "POST", "PUT", "DELETE", "HEAD") else "other"
        self.metrics.requests.labels(exchange.route, method, exchange.status).inc()
        self.metrics.seconds.labels(exchange.route).observe(seconds)
        if log.isEnabledFor(logging.INFO):
            log.info("", extra={
                "request_id": exchange.id, "method": method, "route": exchange.route,
                "status": exchange.status, "ms": round(seconds * 1000, 2),
            })  # fmt: skip


class _Answer:
    """Sends, with our headers on; remembers whether anything has gone out."""

    def __init__(self, send: Send, exchange: Exchange) -> None:
        self._send, self._exchange = send, exchange

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._exchange.status = message["status"]
            own = (b"x-request-id", self._exchange.id.encode())
            message["headers"] = [*message.get("headers", ()), *HEADERS, own]
        await self._send(message)

    async def refuse(self, refused: Refused) -> None:
        if self._exchange.status:  # half an answer is out: nothing can be added to it
            return
        body = json.dumps(refusal(refused.code, refused.what, fix=refused.fix)).encode()
        head = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        if refused.status == 401:
            head.append((b"www-authenticate", b"Bearer"))
        if refused.status in (408, 413):  # the rest of the body was not read
            head.append((b"connection", b"close"))
        await self.send({"type": "http.response.start", "status": refused.status, "headers": head})
        await self.send({"type": "http.response.body", "body": body})


def _scope_for(method: str, path: str) -> str:
    if method in ("GET", "HEAD") or path in ("/api/recommend", "/api/predict", "/api/explain"):
        return "read"
    return "admin" if method == "DELETE" else "write"  # what is removed does not come back


def _route_undecoded(scope: Scope) -> None:
    """Ids may hold any character, "/" too: the path is split before it is decoded."""
    raw = scope.get("raw_path")
    if raw and raw.startswith(b"/api/"):
        scope["path"] = raw.partition(b"?")[0].decode("latin-1")


async def _body(scope: Scope, headers: Headers, receive: Receive) -> bytes:
    """The whole body, if it is small enough and comes soon enough."""
    if scope["method"] in ("GET", "HEAD", "OPTIONS") and "transfer-encoding" not in headers:
        return b""
    declared = headers.get("content-length", "0")
    parts, total = [], int(declared) if declared.isdigit() else 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            more, length = True, 0
            while more and max(total, length) <= LARGEST_BODY:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise Refused(400, "disconnected", "the client went away.")
                parts.append(message.get("body", b""))
                length += len(parts[-1])
                more = message.get("more_body", False)
    except TimeoutError:
        raise Refused(408, "timeout", "the body did not arrive in time.", "Try again.") from None
    if max(total, length) > LARGEST_BODY:
        raise Refused(413, "too_large", f"the body is larger than {LARGEST_BODY:,} bytes.",
                      "Send fewer entries at a time.")  # fmt: skip
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if length and kind != "application/json":
        raise Refused(415, "not_json", "the body is not JSON.",
                      "Send it with Content-Type: application/json.")  # fmt: skip
    return b"".join(parts)


def _once(body: bytes, receive: Receive) -> Receive:
    """The body that was read already, then whatever the client does next."""
    messages: Iterable[Message] = [{"type": "http.request", "body": body, "more_body": False}]
    pending = iter(messages)

    async def next_message() -> Message:
        return next(pending, None) or await receive()

    return next_message
