"""Rows of a database by a query.

The module does not know which column has which role, and shows no secret of a URL.
"""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

import polars as pl

from foretaste.data.reading.text.sources import first_bytes
from foretaste.errors import DataError, UsageError

SECRET = re.compile("pass|pwd|secret|token|key", re.IGNORECASE)


def read_query(url: str, query: str | None) -> tuple[pl.DataFrame, str]:
    """Return the rows of a query, and the URL of its database without a password.

    Args:
        url: The URL of the database.
        query: The SQL that selects the rows.

    Raises:
        UsageError: It is no database, or there is no query.
        DataError: The query fails; no message shows the password in the URL.
    """
    parts = urlsplit(url)
    shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
    if parts.scheme in ("http", "https", "ftp", "s3", "gs", "file"):
        raise UsageError(
            "only local files and databases are read.", where=shown, fix="Download the file first."
        )
    if query is None:
        raise UsageError(
            "a database URL needs a query.", where=shown,
            fix="Add query='select user, item, rating from ratings' (--query).",
        )  # fmt: skip
    if parts.scheme == "sqlite":
        first_bytes(Path(unquote(parts.path)))  # a missing database would be created, empty
    try:
        table = pl.read_database_uri(query, url, engine="connectorx")
    except ImportError:
        raise DataError(
            "reading a database needs connectorx.", where=shown, fix="pip install 'foretaste[sql]'"
        ) from None
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # connectorx also panics, which is no Exception
        raise DataError(
            f"the query failed: {_without_secrets(str(error), url)}", where=shown,
            fix="Check the URL and the query.",
        ) from None  # fmt: skip
    return table, shown


def _without_secrets(message: str, url: str) -> str:
    """Return a message without the URL, its password, and the values of its parameters."""
    parts = urlsplit(url)
    secrets = [url, parts.netloc.rpartition("@")[0], parts.password or "", parts.query]
    secrets += [value for key, value in parse_qsl(parts.query) if SECRET.search(key)]
    for secret in sorted({*secrets, *map(unquote, secrets)}, key=len, reverse=True):
        if secret:
            message = message.replace(secret, "***")
    return message
