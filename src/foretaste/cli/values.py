"""What options hold, from text to values: fields, ids, histories, columns of a user, weights.

The module does not know which command asks.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import polars as pl

from foretaste.data.reading.columns import KNOWN, plain
from foretaste.data.reading.items import read_items
from foretaste.errors import UsageError
from foretaste.recommending.request import Entry

LEARN = "learn"  # the weights of kinds of events, on validation data
ENTRY = re.compile(r'\s*(?:"((?:[^"]|"")*)"([^,]*)|([^,]*))')
QUOTES = "An id with a comma or an equals sign stands in quotes: --history '\"a=b\",172'."


def fields_from(settings: list[str] | None) -> dict[str, object]:
    """Return the hyperparameters that --set names.

    Args:
        settings: Texts such as ``n_factors=64``. Values are TOML (numbers, lists, true); anything
            else is text.

    Raises:
        UsageError: A text has no "=".
    """
    fields: dict[str, object] = {}
    for setting in settings or []:
        name, equals, value = setting.partition("=")
        if not equals:
            raise UsageError(f"--set {setting}.", fix="Write --set name=value.")
        fields[name.strip().replace("-", "_")] = _toml_value(value.strip())
    return fields


def event_weights_from(text: str | None) -> dict[str, float] | None:
    """Return the weights of kinds of events by name; None for none, and where they are learned.

    Args:
        text: ``view=1,cart=3,purchase=5``, ``learn`` or None.

    Raises:
        UsageError: A part has no "=", or a weight is no number.
    """
    if text is None or text == LEARN:
        return None
    weights = {}
    for part in filter(None, map(str.strip, text.split(","))):
        name, equals, weight = part.rpartition("=")
        try:
            weights[name.strip()] = float(weight)
        except ValueError:
            equals = ""
        if not equals:
            raise UsageError(
                f"--event-weights: got {part!r}.", fix="Write kind=weight: view=1,cart=3."
            )
    return weights


def ids_from(texts: Sequence[str] | None, option: str) -> list[str]:
    """Return the ids that an option names.

    Args:
        texts: What each use of the option gives: ids with commas. An id that has a comma stands in
            quotes, as in CSV: ``50,"a,b"``.
        option: The name of the option, for the error.

    Raises:
        UsageError: There is text behind a quote.
    """
    found = []
    for name, quoted, tail in _entries(texts):
        if quoted and tail:
            raise UsageError(f"{option}: got {tail!r} behind a quote.", fix=QUOTES)
        found.append(name)
    return found


def history_from(texts: Sequence[str]) -> list[str] | dict[str, float]:
    """Return a history: a list of ids, or ratings by id.

    Args:
        texts: What each use of --history gives: ``50,172`` for items that were liked, or
            ``50=5,172=2.5`` for items with ratings. An id with "," or "=" stands in quotes.

    Raises:
        UsageError: A rating is no number, or only some items have one.
    """
    entries = []
    for name, quoted, tail in _entries(texts):
        item, equals, value = (name, tail[:1], tail[1:]) if quoted else _at_last(name)
        if quoted and tail and not equals == "=":
            raise UsageError(f"--history: got {tail!r} behind a quote.", fix=QUOTES)
        entries.append((name + tail, item.strip() if not quoted else item, equals, value))
    if not any(equals for _, _, equals, _ in entries):
        return [item for _, item, _, _ in entries]
    rated = {}
    for entry, item, equals, value in entries:
        try:
            rated[item] = float(value if equals else "")
        except ValueError:
            raise UsageError(
                f"--history: got {entry!r}.",
                fix=f"Write ids, or id=rating for each: 50=5,172=2.5. {QUOTES}",
            ) from None
        if not item:
            raise UsageError(
                f"--history: {entry!r} has no rating.", fix="Rate all of them, or none."
            )
    return rated


def history_of(
    texts: Sequence[str] | None, file: Path | None
) -> list[str] | dict[str, float] | list[Entry] | None:
    """Return the history that --history or --history-file gives, None where neither is given.

    Args:
        texts: What each use of --history gives.
        file: A table of items, with ratings if it has a column of them, in the order in which they
            were met; or an id a line.

    Raises:
        UsageError: Both are given, or what is given cannot be read.
        DataError: The file cannot be read.
    """
    if file is None:
        return None if texts is None else history_from(texts)
    if texts is not None:
        raise UsageError("--history and --history-file.", fix="Give one of them.")
    table = read_items(file)
    named = [name for name in table.columns[1:] if plain(name) in KNOWN["value"]]
    items = table[table.columns[0]].cast(str).to_list()
    if not named:
        return items
    try:
        values = table[named[0]].cast(float).to_list()
    except pl.exceptions.PolarsError:
        raise UsageError(
            f"column {named[0]!r} is not all numbers.", where=file, fix="Write ratings such as 4.5."
        ) from None
    return [Entry(item, value) for item, value in zip(items, values, strict=True)]


def listed(ids: Iterable[object]) -> str:
    """Return ids as an option takes them, in quotes where they need them.

    Args:
        ids: The ids.
    """
    texts = map(str, ids)
    return ",".join(
        '"' + one.replace('"', '""') + '"' if re.search(r'[",=]|^\s|\s$', one) else one
        for one in texts
    )


def user_features_from(text: str | None) -> dict[str, str]:
    """Return what else is known of a new user, by column of the user table.

    Args:
        text: ``gender=F,age=25``; None for nothing. A part with a comma stands in quotes.

    Raises:
        UsageError: A part has no "=".
    """
    features = {}
    for part, _, tail in _entries([text or ""]):
        name, equals, cell = (part + tail).partition("=")
        if not equals:
            raise UsageError(
                f"--user-features: got {part!r}.", fix="Write column=value: gender=F,age=25."
            )
        features[name.strip()] = cell.strip()
    return features


def _entries(texts: Sequence[str] | None) -> Iterator[tuple[str, bool, str]]:
    """Yield each entry of lists with commas, whether it is quoted, and what is behind the quote."""
    for text in texts or ():
        at = 0
        while at <= len(text):
            found = ENTRY.match(text, at)
            assert found is not None
            quoted, tail, bare = found.groups()
            if quoted is not None:
                yield quoted.replace('""', '"'), True, tail.strip()
            elif bare.strip():
                yield bare.strip(), False, ""
            at = found.end() + 1


def _at_last(entry: str) -> tuple[str, str, str]:
    """Return the item, "=" and the rating of an entry, split at the last "="."""
    item, equals, value = entry.rpartition("=")
    return (item, equals, value) if equals else (entry, "", "")


def _toml_value(text: str) -> object:
    """Return the value of a TOML expression, or the text itself."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
