"""What a store keeps, as values; it knows nothing of SQL."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Event:
    """What a user did with an item.

    Attributes:
        user: The user's id.
        item: The item's id.
        value: A rating or a weight; None counts as liked.
        time: Milliseconds since 1970 UTC.
        request_id: The request whose list led to it, where the client says so.
        kind: The kind of event, such as "view"; the value is an amount then. None without kinds.
    """

    user: str
    item: str
    value: float | None
    time: int
    request_id: str | None = None
    kind: str | None = None


@dataclass(frozen=True)
class Past:
    """What the store knows of a user.

    Attributes:
        events: The user's events, oldest first.
        forgotten: Whether what the bundle holds of the user must not be used.
    """

    events: Sequence[Event] = ()
    forgotten: bool = False


@dataclass(frozen=True)
class Key:
    """An API key as it is listed; the key itself is kept only as a SHA-256.

    Attributes:
        name: The name that it was made with.
        scope: "read", "write" or "admin"; each includes those before it.
        created: Milliseconds since 1970 UTC.
        revoked: Milliseconds since 1970 UTC; None while it is valid.
    """

    name: str
    scope: str
    created: int
    revoked: int | None


def digest(text: str) -> str:
    """Return the SHA-256 of a text, in hexadecimal.

    Args:
        text: An API key, a user id or a body, of which nothing else is kept.
    """
    return hashlib.sha256(text.encode()).hexdigest()


def now_ms() -> int:
    """Return the time in milliseconds since 1970 UTC."""
    return time.time_ns() // 1_000_000
