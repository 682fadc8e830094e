"""Options that several commands share, and the Dataset that they describe."""

from __future__ import annotations

import functools
import inspect
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import polars as pl
import typer

from foretaste.cli.show import byte_meter
from foretaste.data.catalog import ALIASES, CATALOG
from foretaste.data.dataset import Dataset
from foretaste.data.fetching import fetch, load_dataset
from foretaste.data.reading import read
from foretaste.data.reading.columns import KNOWN, plain
from foretaste.data.reading.items import read_items
from foretaste.data.reading.layouts import LAYOUTS
from foretaste.errors import UsageError
from foretaste.recommending.request import Entry

Source = Annotated[
    str,
    typer.Argument(
        help="A ratings file (CSV, TSV, ::, JSON, Parquet, Arrow, Excel, Avro; .gz), a folder of "
        "MovieLens or of Parquet files, a database URL with --query, or the name of a public data "
        "set (see `foretaste fetch`)."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Bundle = Annotated[Path, typer.Argument(help="A folder written by `foretaste train`.")]
Seed = Annotated[int, typer.Option(help="Seed of everything random.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Share = Annotated[float, typer.Option(help="Fraction of the data in the holdout.")]
Length = Annotated[int, typer.Option(help="Length of the lists.")]
Fields = Annotated[
    list[str] | None,
    typer.Option("--set", help="A hyperparameter of the model, as name=value; repeatable."),
]
Diversity = Annotated[
    float, typer.Option(help="From 0 to 1: how much relevance to trade for variety in a list.")
]


EventWeights = Annotated[
    str | None,
    typer.Option(
        help="What each kind of event weighs, as view=1,cart=3,purchase=5; `learn` finds the "
        "weights on validation data (train, evaluate and compare)."
    ),
]
LEARN = "learn"
Reader = Callable[[], Dataset]
ENTRY = re.compile(r'\s*(?:"((?:[^"]|"")*)"([^,]*)|([^,]*))')
QUOTES = "An id with a comma or an equals sign stands in quotes: --history '\"a=b\",172'."


def reader(
    source: Source,
    user_column: Annotated[str | None, typer.Option(help="Column of user ids.")] = None,
    item_column: Annotated[str | None, typer.Option(help="Column of item ids.")] = None,
    rating_column: Annotated[str | None, typer.Option(help="Column of ratings.")] = None,
    time_column: Annotated[str | None, typer.Option(help="Column of times.")] = None,
    event_column: Annotated[
        str | None, typer.Option(help="Column of kinds of events (view, cart, purchase).")
    ] = None,
    event_weights: EventWeights = None,
    target_event: Annotated[
        str | None,
        typer.Option(help="Kind of event to be predicted (default: of the highest weight)."),
    ] = None,
    separator: Annotated[
        str | None, typer.Option(help="Separator of the fields; guessed if not given.")
    ] = None,
    layout: Annotated[
        str | None,
        typer.Option(
            help=f"What a line of text is: {', '.join(LAYOUTS)}; guessed if not given (see "
            "docs/reading.md)."
        ),
    ] = None,
    query: Annotated[str | None, typer.Option(help="SQL query for a database URL.")] = None,
    items: Annotated[
        str | None,
        typer.Option(
            help="A table of items to join by id: a file of any kind that ratings may have, or the "
            "name of a public data set (tmdb-5000)."
        ),
    ] = None,
    links: Annotated[
        Path | None,
        typer.Option(
            help="A table from the ids of the ratings to those of --items (MovieLens links.csv)."
        ),
    ] = None,
    bad_rows: Annotated[
        str, typer.Option(help="What to do with rows that cannot be read: error or drop.")
    ] = "error",
    duplicates: Annotated[
        str,
        typer.Option(
            help="What to keep of rows with one user and item: last, mean, sum, keep or error; "
            "auto keeps all where events repeat, else the last."
        ),
    ] = "auto",
) -> Reader:
    """Return what reads the Dataset of a file, folder, URL or catalogue name.

    The arguments are the options that commands get by `reads_ratings`; their help explains them.

    Raises:
        UsageError: Options contradict each other; this is found when the Dataset is read.
    """

    def read_ratings() -> Dataset:
        if links is not None and items is None:
            raise UsageError("--links without --items.", fix="Name the table that they lead to.")
        ratings = _read(
            source, bad_rows=bad_rows, duplicates=duplicates, user=user_column, item=item_column,
            value=rating_column, time=time_column, separator=separator, layout=layout,
            query=query, event=event_column, event_weights=event_weights_from(event_weights),
            target_event=target_event,
        )  # fmt: skip
        if items is None:
            return ratings
        known = _in_catalog(items)
        joined = ratings.join_items(read_items(fetch(items) if known else items, links=links))
        for note in joined.report.notes[len(ratings.report.notes) :]:
            typer.echo(f"Note: {note}.", err=True)
        return joined

    return read_ratings


def reads_ratings(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of `reader`, whose result it takes as `read_ratings`.

    An option that both have goes to both.

    Args:
        command: A function with an argument `read_ratings`.
    """
    theirs = inspect.signature(reader, eval_str=True).parameters
    own = dict(inspect.signature(command, eval_str=True).parameters)
    del own["read_ratings"]

    @functools.wraps(command)
    def run(**given: Any) -> None:
        if given.get("event_weights") == LEARN and "event_weights" not in own:
            raise UsageError(
                "--event-weights learn: this command trains nothing.",
                fix="Use it with train, evaluate or compare, or give view=1,purchase=5.",
            )
        read_ratings = reader(**{name: given[name] for name in theirs})
        command(read_ratings=read_ratings, **{name: given[name] for name in own})

    order = {"source": theirs["source"]} | own | {n: p for n, p in theirs.items() if n not in own}
    keyword = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in order.values()]
    run.__signature__ = inspect.Signature(keyword)  # pyright: ignore[reportAttributeAccessIssue]
    run.__annotations__ = {p.name: p.annotation for p in keyword}
    return run


def _in_catalog(source: str) -> bool:
    """Return whether a name is that of a public data set, and of no file."""
    return (source in CATALOG or source in ALIASES) and not Path(source).exists()


def _read(source: str, **options: Any) -> Dataset:
    """Return the Dataset of a source, with a bar of progress on a terminal."""
    if _in_catalog(source):
        given = [
            name
            for name in (
                "user",
                "item",
                "value",
                "time",
                "separator",
                "layout",
                "query",
                "event",
                "event_weights",
                "target_event",
            )
            if options.get(name)
        ]
        if given:
            raise UsageError(
                f"{source} is a public data set: its columns are known.", fix="Leave them out."
            )
        with byte_meter(f"fetching {source}") as meter:
            return load_dataset(source, progress=meter)
    with byte_meter(f"reading {source}") as meter:
        return read(source, progress=meter, **options)


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
