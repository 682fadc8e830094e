"""Options that several commands share, and the Dataset that they describe."""

from __future__ import annotations

import functools
import inspect
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from foretaste.cli.show import byte_meter
from foretaste.data.catalog import ALIASES, CATALOG
from foretaste.data.dataset import Dataset
from foretaste.data.fetching import fetch, load_dataset
from foretaste.data.reading import read
from foretaste.data.reading.items import read_items
from foretaste.errors import UsageError

Source = Annotated[
    str,
    typer.Argument(
        help="A ratings file (CSV, TSV, ::, Parquet, .gz), a MovieLens folder, a database URL with "
        "--query, or the name of a public data set (see `foretaste fetch`)."
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


Reader = Callable[[], Dataset]


def reader(
    source: Source,
    user_column: Annotated[str | None, typer.Option(help="Column of user ids.")] = None,
    item_column: Annotated[str | None, typer.Option(help="Column of item ids.")] = None,
    rating_column: Annotated[str | None, typer.Option(help="Column of ratings.")] = None,
    time_column: Annotated[str | None, typer.Option(help="Column of times.")] = None,
    separator: Annotated[
        str | None, typer.Option(help="Separator of the fields; guessed if not given.")
    ] = None,
    query: Annotated[str | None, typer.Option(help="SQL query for a database URL.")] = None,
    items: Annotated[
        str | None,
        typer.Option(
            help="A table of items to join by id: CSV, TSV, Parquet, or the name of a public data "
            "set (tmdb-5000)."
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
        typer.Option(help="What to keep of rows with one user and item: last, mean, sum or error."),
    ] = "last",
    values: Annotated[
        str,
        typer.Option(
            help="What values mean: auto, ratings, rated (ratings without marks for 'not rated'), "
            "or clicks."
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
            value=rating_column, time=time_column, separator=separator, query=query,
            values=values,
        )  # fmt: skip
        if items is None:
            return ratings
        known = _in_catalog(items)
        return ratings.join_items(read_items(fetch(items) if known else items, links=links))

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
            for name in ("user", "item", "value", "time", "separator", "query")
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


def history_from(text: str) -> list[str] | dict[str, float]:
    """Return a history: a list of ids, or ratings by id.

    Args:
        text: ``50,172`` for items that were liked, or ``50=5,172=2.5`` for items with ratings.

    Raises:
        UsageError: A rating is no number, or only some items have one.
    """
    entries = [part.strip() for part in text.split(",") if part.strip()]
    if not any("=" in entry for entry in entries):
        return entries
    rated = {}
    for entry in entries:
        item, _, value = entry.rpartition("=")
        try:
            rated[item.strip()] = float(value)
        except ValueError:
            raise UsageError(
                f"--history: got {entry!r}.", fix="Write ids, or id=rating for each: 50=5,172=2.5."
            ) from None
        if not item:
            raise UsageError(
                f"--history: {entry!r} has no rating.", fix="Rate all of them, or none."
            )
    return rated


def user_features_from(text: str | None) -> dict[str, str]:
    """Return what else is known of a new user, by column of the user table.

    Args:
        text: ``gender=F,age=25``; None for nothing.

    Raises:
        UsageError: A part has no "=".
    """
    features = {}
    for part in filter(None, map(str.strip, (text or "").split(","))):
        name, equals, cell = part.partition("=")
        if not equals:
            raise UsageError(
                f"--user-features: got {part!r}.", fix="Write column=value: gender=F,age=25."
            )
        features[name.strip()] = cell.strip()
    return features


def _toml_value(text: str) -> object:
    """Return the value of a TOML expression, or the text itself."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
