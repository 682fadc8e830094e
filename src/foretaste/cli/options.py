"""Options that several commands share, and the Dataset that they describe."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from foretaste.cli.show import byte_meter
from foretaste.cli.values import LEARN, event_weights_from
from foretaste.data.catalog import ALIASES, CATALOG
from foretaste.data.dataset import Dataset
from foretaste.data.fetching import fetch, load_dataset
from foretaste.data.reading import read
from foretaste.data.reading.items import read_items
from foretaste.data.reading.layouts import LAYOUTS
from foretaste.errors import UsageError

Source = Annotated[
    str,
    typer.Argument(
        help="A ratings file (CSV, TSV, ::, JSON, Parquet, Arrow, Excel, Avro; packed or not), - for "
        "standard input, a folder of MovieLens or of Parquet files, a database URL with --query, or "
        "the name of a public data set (see `foretaste fetch`)."
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
Relevance = Annotated[
    float | None,
    typer.Option(
        "--relevance-threshold",
        help="Lowest rating that a list should find (default: three quarters up the scale).",
    ),
]
Diversity = Annotated[
    float, typer.Option(help="From 0 to 1: how much relevance to trade for variety in a list.")
]
Separator = Annotated[
    str | None,
    typer.Option(help="Separator of the fields, or whitespace for any number of blanks; guessed."),
]
Encoding = Annotated[
    str,
    typer.Option(help="Encoding of a text file, such as cp1251 or gbk; auto judges by the text."),
]
TimeFormat = Annotated[
    str | None,
    typer.Option(
        help="How times are written, where their cells leave it open: seconds, milliseconds, "
        "excel, day-first, month-first, or a pattern such as %d/%m/%Y."
    ),
]

EventWeights = Annotated[
    str | None,
    typer.Option(
        help="What each kind of event weighs, as view=1,cart=3,purchase=5; `learn` finds the "
        "weights on validation data (train, evaluate and compare)."
    ),
]
Reader = Callable[[], Dataset]


EventColumn = Annotated[
    str | None, typer.Option(help="Column of kinds of events (view, cart, purchase).")
]
TargetEvent = Annotated[
    str | None,
    typer.Option(help="Kind of event to be predicted (default: of the highest weight)."),
]
Layout = Annotated[
    str | None,
    typer.Option(
        help=f"What a line of text is: {', '.join(LAYOUTS)}; guessed if not given (see "
        "docs/reading.md)."
    ),
]
ItemTable = Annotated[
    str | None,
    typer.Option(
        help="A table of items to join by id: a file of any kind that ratings may have, or the "
        "name of a public data set (tmdb-5000)."
    ),
]
Links = Annotated[
    Path | None,
    typer.Option(
        help="A table from the ids of the ratings to those of --items (MovieLens links.csv)."
    ),
]
BadRows = Annotated[
    str, typer.Option(help="What to do with rows that cannot be read: error or drop.")
]
Duplicates = Annotated[
    str,
    typer.Option(
        help="What to keep of rows with one user and item: last, mean, sum, keep or error; "
        "auto keeps all where events repeat, else the last."
    ),
]
Values = Annotated[
    str,
    typer.Option(
        help="What values mean: auto, ratings, rated (ratings without marks for 'not rated'), "
        "or clicks."
    ),
]


def reader(
    source: Source,
    user_column: Annotated[str | None, typer.Option(help="Column of user ids.")] = None,
    item_column: Annotated[str | None, typer.Option(help="Column of item ids.")] = None,
    rating_column: Annotated[str | None, typer.Option(help="Column of ratings.")] = None,
    time_column: Annotated[str | None, typer.Option(help="Column of times.")] = None,
    event_column: EventColumn = None,
    event_weights: EventWeights = None,
    target_event: TargetEvent = None,
    separator: Separator = None,
    layout: Layout = None,
    encoding: Encoding = "auto",
    time_format: TimeFormat = None,
    query: Annotated[str | None, typer.Option(help="SQL query for a database URL.")] = None,
    items: ItemTable = None,
    links: Links = None,
    bad_rows: BadRows = "error",
    duplicates: Duplicates = "auto",
    values: Values = "auto",
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
            target_event=target_event, encoding=encoding, time_format=time_format,
            values=values,
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
                "time_format",
            )
            if options.get(name)
        ]
        given += ["encoding"] if options.get("encoding", "auto") != "auto" else []
        if given:
            raise UsageError(
                f"{source} is a public data set: its columns are known.", fix="Leave them out."
            )
        with byte_meter(f"fetching {source}") as meter:
            return load_dataset(source, progress=meter)
    with byte_meter(f"reading {source}") as meter:
        return read(source, progress=meter, **options)
