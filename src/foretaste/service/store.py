"""Where events, features and keys are kept: the only SQL, on SQLite or PostgreSQL.

An event is acknowledged once it is on disk: SQLite writes its log through (WAL,
synchronous=FULL), PostgreSQL does so by default.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.event import listens_for
from sqlalchemy.exc import ArgumentError, IntegrityError, SQLAlchemyError

from foretaste.errors import ForetasteError, UnknownIdError, UsageError

SCOPES = ("read", "write", "admin")  # each includes those before it
LOCK = 0x666F7265  # PostgreSQL: one service migrates at a time
WAIT = 5  # seconds for another writer, for a connection, for a statement
ANSWERED_FOR = 7 * 86_400_000  # ms that an idempotency key is remembered

_meta = sa.MetaData()
_counter = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_events = sa.Table(
    "events", _meta, sa.Column("id", _counter, primary_key=True), sa.Column("user_id", sa.Text),
    sa.Column("item_id", sa.Text), sa.Column("value", sa.Float), sa.Column("time", sa.BigInteger),
    sa.Column("request_id", sa.Text),
)  # fmt: skip
_described = {
    name: sa.Table(
        name, _meta, sa.Column("id", sa.Text, primary_key=True), sa.Column("fields", sa.Text),
        sa.Column("updated", sa.BigInteger),
    )
    for name in ("users", "items")
}  # fmt: skip
_forgotten = sa.Table("forgotten", _meta, sa.Column("digest", sa.Text, primary_key=True))
_keys = sa.Table(
    "keys", _meta, sa.Column("name", sa.Text, primary_key=True), sa.Column("digest", sa.Text),
    sa.Column("scope", sa.Text), sa.Column("created", sa.BigInteger),
    sa.Column("revoked", sa.BigInteger),
)  # fmt: skip
_answered = sa.Table(
    "answered", _meta, sa.Column("client", sa.Text, primary_key=True),
    sa.Column("key", sa.Text, primary_key=True), sa.Column("digest", sa.Text),
    sa.Column("time", sa.BigInteger),
)  # fmt: skip
_changes = sa.Table(
    "changes", _meta, sa.Column("kind", sa.Text, primary_key=True), sa.Column("n", sa.BigInteger)
)
# one question for both: what the users did, and which of them the bundle must not speak of
_PAST = sa.union_all(
    sa.select(_events.c.user_id, _events.c.item_id, _events.c.value, _events.c.time, _events.c.id)
    .where(_events.c.user_id.in_(sa.bindparam("users", expanding=True))),
    sa.select(_forgotten.c.digest, sa.null(), sa.null(), sa.literal(0), sa.literal(0))
    .where(_forgotten.c.digest.in_(sa.bindparam("digests", expanding=True))),
).order_by("time", "id")  # fmt: skip


class StoreError(ForetasteError):
    """The store cannot be reached or used."""


class ConflictError(ForetasteError):
    """The request contradicts one that was answered already."""


@dataclass(frozen=True)
class Event:
    """A user did something with an item; value None is a plain click.  time: milliseconds."""

    user: str
    item: str
    value: float | None
    time: int
    request_id: str | None = None


@dataclass(frozen=True)
class Past:
    """The events of a user, oldest first.  forgotten: the bundle's are not to be used."""

    events: Sequence[Event] = ()
    forgotten: bool = False


@dataclass(frozen=True)
class Key:
    """An API key as it is listed: what opens the door is only kept as a SHA-256.  times: ms."""

    name: str
    scope: str
    created: int
    revoked: int | None


class Store:
    """Events, features and keys behind one URL."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._engine, self._reading = _engines(url)

    @classmethod
    def open(cls, url: str) -> Self:
        """Connect, and bring the tables to this version; StoreError where that fails."""
        store = cls(url)
        try:
            with store._writing() as db:
                if store._engine.dialect.name == "postgresql":
                    db.execute(sa.select(sa.func.pg_advisory_xact_lock(LOCK)))
                config = Config(attributes={"connection": db})
                config.set_main_option("script_location", "foretaste.service:migrations")
                command.upgrade(config, "head")
        except SQLAlchemyError as error:
            said = str(getattr(error, "orig", error)).splitlines()[0].rstrip(".")
            raise StoreError(
                f"the store cannot be opened: {said}.", where=store._engine.url.render_as_string(),
                fix="Name one with --db, such as sqlite:///events.sqlite or postgresql://host/name.",
            ) from None  # fmt: skip
        return store

    def close(self) -> None:
        """Let go of the connections."""
        self._engine.dispose()
        self._reading.dispose()

    def ping(self) -> None:
        """Raises where the store does not answer."""
        with self._reading.connect() as db:
            db.execute(sa.select(1))

    # -- events

    def add(
        self, events: Sequence[Event], *, overwrite: bool = False, key: str | None = None,
        body: str = "", client: str = "",
    ) -> int:  # fmt: skip
        """Keep events, all or none.

        Args:
            events: What users did.
            overwrite: They replace what is here of the same user and item.
            key: An idempotency key: a second call of the client with it changes nothing, and gets
                the first answer.
            body: What the events came in.
            client: Whose idempotency key it is, such as the SHA-256 of an API key.

        Returns:
            How many were accepted.

        Raises:
            ConflictError: The client has used the key with another body.
        """
        rows = [
            {"user_id": e.user, "item_id": e.item, "value": e.value, "time": e.time,
             "request_id": e.request_id} for e in events
        ]  # fmt: skip
        with self._writing() as db:
            if key is not None and not self._first_time(
                db, {"client": client, "key": key, "digest": digest(f"{overwrite} {body}")}
            ):
                return len(rows)
            if overwrite:
                rows = list({(row["user_id"], row["item_id"]): row for row in rows}.values())
                gone = _events.delete().where(
                    _events.c.user_id == sa.bindparam("u"), _events.c.item_id == sa.bindparam("i")
                )
                db.execute(gone, [{"u": row["user_id"], "i": row["item_id"]} for row in rows])
            db.execute(_events.insert(), rows)
        return len(events)

    def _first_time(self, db: sa.Connection, asked: Mapping[str, str]) -> bool:
        """Whether the client's key is new, which it is not any more then; ConflictError."""
        now = _now()
        db.execute(_answered.delete().where(_answered.c.time < now - ANSWERED_FOR))
        insert = _insert(self._engine)(_answered).values(**asked, time=now)
        kept = insert.on_conflict_do_nothing().returning(_answered.c.key)
        if db.execute(kept).first() is not None:
            return True
        same = (_answered.c.client == asked["client"], _answered.c.key == asked["key"])
        if db.execute(sa.select(_answered.c.digest).where(*same)).scalar() != asked["digest"]:
            raise ConflictError(
                "this Idempotency-Key came with another body before.",
                fix="Use a new key for a new request, the same body for a repeated one.",
            )
        return False

    def past_of(self, users: Sequence[str]) -> dict[str, Past]:
        """What is known of each user; users without anything are left out."""
        digests = {digest(user): user for user in users}
        with self._reading.connect() as db:
            rows = db.execute(_PAST, {"users": users, "digests": list(digests)}).all()
        events: dict[str, list[Event]] = {}
        forgotten = set()
        for user, item, value, at, _ in rows:
            if item is None:
                forgotten.add(digests[user])
            else:
                events.setdefault(user, []).append(Event(user, item, value, at))
        return {
            user: Past(events.get(user, ()), user in forgotten)
            for user in forgotten | events.keys()
        }

    def all_events(self) -> list[Event]:
        """Every event, oldest first."""
        columns = (_events.c.user_id, _events.c.item_id, _events.c.value, _events.c.time)
        with self._reading.connect() as db:
            rows = db.execute(sa.select(*columns).order_by(_events.c.time, _events.c.id))
            return [Event(*row) for row in rows]

    def remove_events(self, user: str, *, and_user: bool = False) -> int:
        """Every event of a user is gone, and the bundle's count no more; how many there were.

        and_user: the user's fields too.  What stays is a SHA-256, to leave out the bundle's.
        """
        with self._writing() as db:
            if and_user:
                db.execute(_described["users"].delete().where(_described["users"].c.id == user))
            gone = db.execute(_events.delete().where(_events.c.user_id == user)).rowcount
            forget = _insert(self._engine)(_forgotten).on_conflict_do_nothing()
            db.execute(forget, {"digest": digest(user)})
        return gone

    def forgotten(self, users: Sequence[str]) -> set[str]:
        """Those of the users whose part in a bundle must not be used."""
        with self._reading.connect() as db:
            digests = set(db.execute(sa.select(_forgotten.c.digest)).scalars())
        return {user for user in users if digest(user) in digests} if digests else set()

    # -- features

    def describe(self, kind: str, name: str, fields: Mapping[str, Any]) -> None:
        """Keep the fields of a user or an item, over those that were here.

        Args:
            kind: "users" or "items".
            name: The external id.
            fields: JSON values by the names of columns.
        """
        row = {"id": name, "fields": json.dumps(fields), "updated": _now()}
        insert = _insert(self._engine)(_described[kind]).values(row)
        changed = {"fields": insert.excluded.fields, "updated": insert.excluded.updated}
        count = _insert(self._engine)(_changes).values(kind=kind, n=1)
        one_more = {"n": _changes.c.n + 1}
        with self._writing() as db:
            db.execute(insert.on_conflict_do_update(index_elements=["id"], set_=changed))
            db.execute(count.on_conflict_do_update(index_elements=["kind"], set_=one_more))

    def described(self, kind: str) -> dict[str, dict[str, Any]]:
        """The fields of every user or item that has any here."""
        table = _described[kind]
        with self._reading.connect() as db:
            rows = db.execute(sa.select(table.c.id, table.c.fields).order_by(table.c.id))
            return {name: json.loads(fields) for name, fields in rows}

    def items_stamp(self) -> int:
        """Return how often an item was described: another number whenever one was, read at once."""
        asked = sa.select(_changes.c.n).where(_changes.c.kind == "items")
        with self._reading.connect() as db:
            return db.execute(asked).scalar() or 0

    # -- keys

    def create_key(self, name: str, scope: str) -> str:
        """A new key of 256 random bits, shown this once; UsageError for a name that is taken."""
        if scope not in SCOPES:
            raise UsageError(f"scope {scope!r}.", fix=f"Use one of {', '.join(SCOPES)}.")
        token = "ft_" + secrets.token_urlsafe(32)
        row = {"name": name, "digest": digest(token), "scope": scope, "created": _now()}
        try:
            with self._writing() as db:
                db.execute(_keys.insert(), row)
        except IntegrityError:
            raise UsageError(
                f"there is a key {name!r} already.", fix="Choose another name."
            ) from None
        return token

    def listed_keys(self) -> list[Key]:
        """Every key ever made, revoked or not."""
        columns = (_keys.c.name, _keys.c.scope, _keys.c.created, _keys.c.revoked)
        with self._reading.connect() as db:
            return [Key(*row) for row in db.execute(sa.select(*columns).order_by(_keys.c.created))]

    def revoke_key(self, name: str) -> None:
        """The key opens nothing any more; UnknownIdError where there is none of that name."""
        with self._writing() as db:
            revoke = _keys.update().where(_keys.c.name == name).values(revoked=_now())
            if not db.execute(revoke).rowcount:
                raise UnknownIdError("key", [name], fix="foretaste keys list shows them.")

    def scope_of(self, token: str) -> str | None:
        """What a key opens; None for one that does not exist or is revoked."""
        asked = sa.select(_keys.c.scope).where(
            _keys.c.digest == digest(token), _keys.c.revoked.is_(None)
        )
        with self._reading.connect() as db:
            return db.execute(asked).scalar()

    @contextmanager
    def _writing(self) -> Iterator[sa.Connection]:
        """A transaction that is on disk when it ends."""
        with self._engine.connect() as db, db.begin():
            yield db


def _engines(url: str) -> tuple[sa.Engine, sa.Engine]:
    """For transactions that write, and for single questions."""
    try:
        parsed = sa.make_url(url)
    except ArgumentError:
        raise UsageError(
            "--db is not a URL.", fix="Write sqlite:///events.sqlite or postgresql://host/name."
        ) from None
    if parsed.get_backend_name() == "postgresql":
        parsed = parsed.set(drivername="postgresql+psycopg")
        limits = {"connect_timeout": WAIT, "options": f"-c statement_timeout={WAIT * 1000}"}
        return sa.create_engine(parsed, connect_args=limits), sa.create_engine(
            parsed, connect_args=limits, isolation_level="AUTOCOMMIT"
        )
    if parsed.get_backend_name() != "sqlite":
        raise UsageError(
            f"--db: {parsed.get_backend_name()} is not supported.", fix="Use SQLite or PostgreSQL."
        )
    limits = {"timeout": WAIT, "check_same_thread": False}
    reading = sa.create_engine(parsed, connect_args=limits, isolation_level="AUTOCOMMIT")
    writing = reading.execution_options()

    @listens_for(reading, "connect")
    def _durable(connection: Any, _: object) -> None:
        until = time.monotonic() + WAIT
        while True:
            try:
                connection.execute("PRAGMA journal_mode=WAL")
                break
            except sqlite3.OperationalError:  # another is switching: SQLite itself does not wait
                if time.monotonic() > until:
                    raise
                time.sleep(0.01)
        connection.execute("PRAGMA synchronous=FULL")

    @listens_for(writing, "begin")
    def _begin(db: sa.Connection) -> None:
        db.exec_driver_sql("BEGIN IMMEDIATE")  # two writers wait for each other, none fails

    return writing, reading


def _insert(engine: sa.Engine) -> Any:
    """INSERT with ON CONFLICT, in the words of the database."""
    return {"sqlite": sqlite, "postgresql": postgresql}[engine.dialect.name].insert


def digest(text: str) -> str:
    """Return the SHA-256 of a text, in hexadecimal.

    Args:
        text: An API key, a user id or a body, of which nothing else is to be kept.
    """
    return hashlib.sha256(text.encode()).hexdigest()


def _now() -> int:
    return time.time_ns() // 1_000_000
