"""Which column has which role, by name and by position, and whether a row is a header.

The module judges by names and the first rows; it does not know how rows are cut (`text.py`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from foretaste.data.times import is_date
from foretaste.errors import DataError

NAMES = {
    "user": "user userid uid username customer customerid cid reviewer reviewerid member memberid "
            "account accountid visitor visitorid person personid client clientid buyer buyerid "
            "reader readerid listener listenerid player playerid",
    "item": "item itemid iid movie movieid mid film filmid sku asin product productid productcode "
            "stockcode book bookid isbn article articleid song songid track trackid artist "
            "artistid game gameid business businessid venue venueid poi poiid show showid anime "
            "animeid recipe recipeid content contentid",
    "value": "rating ratings rate stars star starrating score value overall bookrating userrating "
             "reviewscore count plays playcount weight quantity",
    "time": "timestamp time date datetime ts unixtime unixreviewtime reviewtime unixtimestamp "
            "timestampms createdat ratedat eventtime ratingtime ratingtimestamp invoicedate",
    "event": "event eventtype eventname action actiontype behavior behaviour behaviortype "
             "behaviourtype interaction interactiontype feedback feedbacktype",
}  # fmt: skip
LIKES = {  # of true and false, where no column has the name of a rating
    "liked", "like", "isliked", "thumb", "thumbs", "thumbsup", "upvoted", "recommended",
    "isrecommended",
}  # fmt: skip
KNOWN = {role: frozenset(names.split()) for role, names in NAMES.items()}
OPTION = {role: role for role in KNOWN} | {"value": "rating"}  # --OPTION-column
AMOUNTS = frozenset(["value", "count", "plays", "playcount", "weight", "quantity"])  # beside kinds
NEEDED = ("user", "item")
TIME_SIZE = 10**8  # a number from here on is a time; as seconds it is March 1973
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def plain(name: str) -> str:
    """Return the name of a column as names are compared.

    Args:
        name: A name: `User_ID` and the `user_id:token` of RecBole are both `userid`.
    """
    return re.sub(r"[\W_]", "", name.partition(":")[0].lower())


def is_header(cells: Sequence[str], wanted: Mapping[str, str | None]) -> bool:
    """Return whether a first row names columns: by a known name, or because it has no number.

    Args:
        cells: The cells of the row.
        wanted: Name of the column by role; a cell with such a name makes the row a header.
    """
    known = any(plain(cell) in names for cell in cells for names in KNOWN.values())
    given = any(cell.strip() == name for cell in cells for name in wanted.values() if name)
    return known or given or not any(is_number(cell) or is_date(cell) for cell in cells)


def is_number(cell: str) -> bool:
    """Return whether a cell is the text of a number.

    Args:
        cell: The text.
    """
    return NUMBER.fullmatch(cell) is not None


def guess_roles(
    columns: Sequence[str], wanted: Mapping[str, str | None], where: str | Path
) -> dict[str, str]:
    """Return the name of the column by role: user, item, and value, time and event if there are.

    A column of events is guessed where one name fits and no column of ratings is there.

    Args:
        columns: The names of all columns.
        wanted: Name of the column by role; None to guess, "" for no such column.
        where: The source, for messages.

    Raises:
        DataError: A role is not clear, or two roles name one column.
    """
    chosen: dict[str, str] = {}
    taken = {name for name in wanted.values() if name}
    for role, names in KNOWN.items():
        name = wanted.get(role)
        if name:
            if columns.count(name) != 1:
                what = "there is no column" if name not in columns else "there are several columns"
                raise _unclear(f"{what} {name!r}.", role, columns, where)
            chosen[role] = name
        elif name is None:
            fitting = [c for c in columns if plain(c) in names and c not in taken]
            if role == "event" and (len(fitting) > 1 or _rated(chosen)):
                continue  # ratings stay ratings, and nothing says which of two columns it is
            if role == "value" and not fitting:
                fitting = [c for c in columns if plain(c) in LIKES and c not in taken]
            if len(fitting) > 1:
                either = " or ".join(repr(c) for c in fitting)
                raise _unclear(f"the {role} column could be {either}.", role, columns, where)
            if fitting:
                chosen[role] = fitting[0]
    for role in NEEDED:
        if role not in chosen:
            raise _unclear(f"no column is clearly the {role}.", role, columns, where)
    if len(set(chosen.values())) < len(chosen):
        raise DataError(f"two roles name one column: {chosen}.", where=where, fix="Name each once.")
    return chosen


def _rated(roles: Mapping[str, str]) -> bool:
    """Return whether the column of values holds ratings by its name, and not amounts."""
    name = plain(roles.get("value", ""))
    return name in KNOWN["value"] and name not in AMOUNTS


def unused(columns: Sequence[str], roles: Mapping[str, str]) -> list[str]:
    """Return a note of the columns without a role, where a misspelt name shows; none without any.

    Args:
        columns: The names of all columns.
        roles: Name of the column by role.
    """
    left = [c for c in columns if c not in roles.values()]
    listed = ", ".join(left[:20]) + (", ..." if len(left) > 20 else "")
    return [f"columns not used: {listed}"] if left else []


def roles_by_position(
    columns: Sequence[str], rows: Sequence[Sequence[str]], wanted: Mapping[str, str | None],
    where: str | Path,
) -> dict[str, str]:  # fmt: skip
    """Return the name of the column by role for a file without a header.

    The order is user, item, value and time, or user, item and time where the third is a time.

    Args:
        columns: The names column_1, column_2 and so on.
        rows: Cells of the first rows.
        wanted: Name of the column by role; None to guess, "" for no such column.
        where: The source, for messages.

    Raises:
        DataError: There are more than four columns, or a role is not clear.
    """
    if any(wanted.values()) or len(columns) < len(NEEDED):
        return guess_roles(columns, wanted, where)
    if len(columns) > 4:
        first = ", ".join(f"{c} ({cell})" for c, cell in zip(columns, rows[0], strict=False))
        raise DataError(
            f"the file has no header and {len(columns)} columns: {first}.", where=where,
            fix="Name them with --user-column, --item-column and so on (Python: user=, item=).",
        )  # fmt: skip
    rest = [c for i, c in enumerate(columns) if i >= 2]
    times = [c for i, c in enumerate(columns) if i >= 2 and all(_is_time(row[i]) for row in rows)]
    order = ("value", "time")
    if times and rest and times[0] == rest[0] and len(times) < 2:
        order = ("time", "value")
    roles = dict(zip(("user", "item", *order), columns, strict=False))
    return {role: roles[role] for role in KNOWN if role in roles and wanted.get(role) != ""}


def _is_time(cell: str) -> bool:
    return is_date(cell) or (is_number(cell) and float(cell) >= TIME_SIZE)


def _unclear(what: str, role: str, columns: Sequence[str], where: str | Path) -> DataError:
    listed = ", ".join(columns[:20]) + (", ..." if len(columns) > 20 else "")
    return DataError(
        f"{what} The columns are: {listed}.", where=where,
        fix=f"Name it with --{OPTION[role]}-column (Python: {role}=).",
    )  # fmt: skip
