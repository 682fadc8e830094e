"""Where events, fields and keys are kept: the only SQL, on SQLite or PostgreSQL.

An event is acknowledged once it is on disk: SQLite writes its log through (WAL, synchronous=FULL),
PostgreSQL does so by default. A store knows nothing of bundles: an item may be in none.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Self

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.event import listens_for
from sqlalchemy.exc import ArgumentError, IntegrityError, SQLAlchemyError

from foretaste.errors import ForetasteError, UnknownIdError, UsageError
from foretaste.service.records import Event, Key, Past, digest, now_ms

SCOPES = ("read", "write", "admin")  # each includes those before it
LOCK = 0x666F7265  # of PostgreSQL: one service migrates at a time
WAIT = 5  # seconds for another writer, for a connection, for a statement
ANSWERED_FOR = 7 * 86_400_000  # ms that an idempotency key is remembered

_meta = sa.MetaData()
_counter = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_events = sa.Table(
    "events", _meta, sa.Column("id", _counter, primary_key=True), sa.Column("user_id", sa.Text),
    sa.Column("item_id", sa.Text), sa.Column("value", sa.Float), sa.Column("time", sa.BigInteger),
    sa.Column("request_id", sa.Text), sa.Column("kind", sa.Text),
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
# one query for both: what the users did, and whose part in the bundle must not be used
_PAST = sa.union_all(
    sa.select(
        _events.c.user_id, _events.c.item_id, _events.c.value, _events.c.time, _events.c.kind,
        _events.c.id,
    ).where(_events.c.user_id.in_(sa.bindparam("users", expanding=True))),
    sa.select(_forgotten.c.digest, sa.null(), sa.null(), sa.literal(0), sa.null(), sa.literal(0))
    .where(_forgotten.c.digest.in_(sa.bindparam("digests", expanding=True))),
).order_by("time", "id")  # fmt: skip


class StoreError(ForetasteError):
    """The store cannot be reached or used."""


class ConflictError(ForetasteError):
    """The request contradicts one that was answered already."""


class Store:
    """Keeps events, fields and keys in the database behind a URL."""

    def __init__(self, url: str) -> None:
        """Make the connections; `open` also makes the tables.

        Args:
            url: As for `open`.
        """
        self.url = url
        self._engine, self._reading = _engines(url)

    @classmethod
    def open(cls, url: str) -> Self:
        """Connect to a database, and bring its tables to this version.

        Args:
            url: Such as sqlite:///events.sqlite or postgresql://host/name.

        Raises:
            StoreError: The database cannot be reached or changed.
            UsageError: It is not a URL of SQLite or PostgreSQL.
        """
        store = cls(url)
        try:
            with store._writing() as db:
                # Two services may start together. A writing transaction of SQLite has the file to
                # itself; PostgreSQL must be asked for a lock.
                if store._engine.dialect.name == "postgresql":
                    db.execute(sa.select(sa.func.pg_advisory_xact_lock(LOCK)))
                config = Config(attributes={"connection": db})
                config.set_main_option("script_location", "foretaste.service:migrations")
                command.upgrade(config, "head")
        except SQLAlchemyError as error:
            why = str(getattr(error, "orig", error)).splitlines()[0].rstrip(".")
            raise StoreError(
                f"the store cannot be opened: {why}.", where=store._engine.url.render_as_string(),
                fix="Name one with --db, such as sqlite:///events.sqlite or postgresql://host/name.",
            ) from None  # fmt: skip
        return store

    def close(self) -> None:
        """Close the connections."""
        self._engine.dispose()
        self._reading.dispose()

    def ping(self) -> None:
        """Ask the database for nothing; raises an error of SQLAlchemy where it does not answer."""
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
            overwrite: Whether they replace the events of the same user, item and kind.
            key: An idempotency key: a second call with it, by the same client, changes nothing and
                gets the first answer. None for none.
            body: What the events came in: it must be the same for the same key.
            client: Whose idempotency key it is, such as the SHA-256 of an API key.

        Returns:
            How many were accepted.

        Raises:
            ConflictError: The client has used the key with another body.
        """
        rows = [
            {"user_id": e.user, "item_id": e.item, "value": e.value, "time": e.time,
             "request_id": e.request_id, "kind": e.kind} for e in events
        ]  # fmt: skip
        with self._writing() as db:
            if key is not None and not self._first_time(
                db, {"client": client, "key": key, "digest": digest(f"{overwrite} {body}")}
            ):
                return len(rows)
            if overwrite:
                same = {"u": "user_id", "i": "item_id", "k": "kind"}
                rows = list({tuple(row[c] for c in same.values()): row for row in rows}.values())
                kind = sa.bindparam("k", type_=sa.Text)
                gone = _events.delete().where(
                    _events.c.user_id == sa.bindparam("u"),
                    _events.c.item_id == sa.bindparam("i"),
                    _events.c.kind.is_not_distinct_from(kind),
                )
                db.execute(gone, [{p: row[c] for p, c in same.items()} for row in rows])
            db.execute(_events.insert(), rows)
        return len(events)

    def _first_time(self, db: sa.Connection, asked: Mapping[str, str]) -> bool:
        """Return whether the client's idempotency key is new, and keep it."""
        now = now_ms()
        db.execute(_answered.delete().where(_answered.c.time < now - ANSWERED_FOR))
        insert = _insert(self._engine)(_answered).values(**asked, time=now)
        # The insert decides, not a look before it: of two requests at once only one gets a row
        # back.
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
        """Return what is known of users, by id; a user of whom nothing is known is left out.

        Args:
            users: Ids.
        """
        # The id is not kept when a user is forgotten, so a person's request is matched by its
        # SHA-256.
        digests = {digest(user): user for user in users}
        with self._reading.connect() as db:
            rows = db.execute(_PAST, {"users": users, "digests": list(digests)}).all()
        events: dict[str, list[Event]] = {}
        forgotten = set()
        for user, item, value, at, kind, _ in rows:
            if item is None:
                forgotten.add(digests[user])
            else:
                events.setdefault(user, []).append(Event(user, item, value, at, kind=kind))
        return {
            user: Past(events.get(user, ()), user in forgotten)
            for user in forgotten | events.keys()
        }

    def all_events(self) -> list[Event]:
        """Return every event, oldest first."""
        e = _events.c
        columns = (e.user_id, e.item_id, e.value, e.time, sa.null(), e.kind)
        with self._reading.connect() as db:
            rows = db.execute(sa.select(*columns).order_by(e.time, e.id))
            return [Event(*row) for row in rows]

    def remove_events(self, user: str, *, and_user: bool = False) -> int:
        """Remove every event of a user; what the bundle holds of the user is not used any more.

        What stays is a SHA-256 of the id, by which the bundle's part is left out.

        Args:
            user: An id.
            and_user: Whether the user's fields are removed too.

        Returns:
            How many events there were.
        """
        with self._writing() as db:
            if and_user:
                db.execute(_described["users"].delete().where(_described["users"].c.id == user))
            gone = db.execute(_events.delete().where(_events.c.user_id == user)).rowcount
            forget = _insert(self._engine)(_forgotten).on_conflict_do_nothing()
            db.execute(forget, {"digest": digest(user)})
        return gone

    def forgotten(self, users: Sequence[str]) -> set[str]:
        """Return those of some users whose part in a bundle must not be used.

        Args:
            users: Ids.
        """
        with self._reading.connect() as db:
            digests = set(db.execute(sa.select(_forgotten.c.digest)).scalars())
        return {user for user in users if digest(user) in digests} if digests else set()

    # -- fields

    def describe(self, kind: str, name: str, fields: Mapping[str, Any]) -> None:
        """Keep the fields of a user or an item, in place of those that were here.

        Args:
            kind: "users" or "items".
            name: The id.
            fields: JSON values by the names of columns.
        """
        row = {"id": name, "fields": json.dumps(fields), "updated": now_ms()}
        insert = _insert(self._engine)(_described[kind]).values(row)
        changed = {"fields": insert.excluded.fields, "updated": insert.excluded.updated}
        # In the same transaction as the fields: whoever sees the new count sees the new fields.
        count = _insert(self._engine)(_changes).values(kind=kind, n=1)
        one_more = {"n": _changes.c.n + 1}
        with self._writing() as db:
            db.execute(insert.on_conflict_do_update(index_elements=["id"], set_=changed))
            db.execute(count.on_conflict_do_update(index_elements=["kind"], set_=one_more))

    def described(self, kind: str) -> dict[str, dict[str, Any]]:
        """Return the fields of every user or item that has any here, by id.

        Args:
            kind: "users" or "items".
        """
        table = _described[kind]
        with self._reading.connect() as db:
            rows = db.execute(sa.select(table.c.id, table.c.fields).order_by(table.c.id))
            return {name: json.loads(fields) for name, fields in rows}

    def items_stamp(self) -> int:
        """Return how often items were described: cheaper to compare than all their fields."""
        asked = sa.select(_changes.c.n).where(_changes.c.kind == "items")
        with self._reading.connect() as db:
            return db.execute(asked).scalar() or 0

    # -- keys

    def create_key(self, name: str, scope: str) -> str:
        """Return a new API key of 256 random bits; it cannot be read again.

        Args:
            name: A name that no key has.
            scope: One of SCOPES.

        Raises:
            UsageError: The name is taken, or there is no such scope.
        """
        if scope not in SCOPES:
            raise UsageError(f"scope {scope!r}.", fix=f"Use one of {', '.join(SCOPES)}.")
        token = "ft_" + secrets.token_urlsafe(32)
        row = {"name": name, "digest": digest(token), "scope": scope, "created": now_ms()}
        try:
            with self._writing() as db:
                db.execute(_keys.insert(), row)
        except IntegrityError:
            raise UsageError(
                f"there is a key {name!r} already.", fix="Choose another name."
            ) from None
        return token

    def listed_keys(self) -> list[Key]:
        """Return every key that was made, revoked or not, the oldest first."""
        columns = (_keys.c.name, _keys.c.scope, _keys.c.created, _keys.c.revoked)
        with self._reading.connect() as db:
            return [Key(*row) for row in db.execute(sa.select(*columns).order_by(_keys.c.created))]

    def revoke_key(self, name: str) -> None:
        """Make a key worthless.

        Args:
            name: The name of the key.

        Raises:
            UnknownIdError: There is no key of that name.
        """
        with self._writing() as db:
            revoke = _keys.update().where(_keys.c.name == name).values(revoked=now_ms())
            if not db.execute(revoke).rowcount:
                raise UnknownIdError("key", [name], fix="foretaste keys list shows them.")

    def scope_of(self, token: str) -> str | None:
        """Return the scope of a key; None where there is no such key, or it is revoked.

        Args:
            token: The key itself.
        """
        asked = sa.select(_keys.c.scope).where(
            _keys.c.digest == digest(token), _keys.c.revoked.is_(None)
        )
        with self._reading.connect() as db:
            return db.execute(asked).scalar()

    @contextmanager
    def _writing(self) -> Iterator[sa.Connection]:
        """Open a transaction, which is on disk when it ends."""
        with self._engine.connect() as db, db.begin():
            yield db


def _engines(url: str) -> tuple[sa.Engine, sa.Engine]:
    """Return an engine for transactions that write, and one for single queries."""
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
            except sqlite3.OperationalError:  # SQLite does not wait for another that switches
                if time.monotonic() > until:
                    raise
                time.sleep(0.01)
        connection.execute("PRAGMA synchronous=FULL")

    @listens_for(writing, "begin")
    def _begin(db: sa.Connection) -> None:
        db.exec_driver_sql("BEGIN IMMEDIATE")  # two writers wait for each other, and none fails

    return writing, reading


def _insert(engine: sa.Engine) -> Any:
    """Return the INSERT that has ON CONFLICT in the dialect of the database."""
    return {"sqlite": sqlite, "postgresql": postgresql}[engine.dialect.name].insert
