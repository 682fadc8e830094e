"""How results look on a terminal: tables, numbers with units, bars of progress."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import polars as pl
import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from foretaste.evaluation.evaluate import Report

console = Console(highlight=False)
LONGEST_CELL = 40  # characters: a column may hold texts of hundreds
ASKED = ("user", "model", "case", "item", "score", "rank", "rating", "std", "weight", "share")
ASKED += ("value", "low", "high")
TITLES = ("title", "name")
UNKNOWN = "–"  # in place of a number that is not known


def say(text: str = "") -> None:
    """Print one line of text, without markup.

    Args:
        text: The line.
    """
    console.print(Text(text), soft_wrap=True)


def say_progress(line: str) -> None:
    """Print a line of progress on standard error.

    Args:
        line: The text.
    """
    typer.echo(line, err=True)


def headline(text: str) -> None:
    """Print the title of a part.

    Args:
        text: The title.
    """
    console.print()
    console.print(Text(text, style="bold"))


def emit(value: Mapping[str, Any]) -> None:
    """Print one JSON object.

    Args:
        value: The object.
    """
    typer.echo(json.dumps(value, default=str, allow_nan=False))


def show_frame(
    frame: pl.DataFrame, as_json: bool, unknown: Mapping[str, Sequence[object]] | None = None
) -> None:
    """Print a table of recommendations or predictions.

    Args:
        frame: The table.
        as_json: Whether to print one JSON object instead.
        unknown: Ids that were ignored, by the argument that held them.
    """
    if as_json:
        emit({"rows": frame.to_dicts(), **({"unknown": unknown} if unknown else {})})
        return
    for name, ids in (unknown or {}).items():
        say(f"Note: {name}: unknown items were ignored: {', '.join(map(str, ids[:5]))}.")
    if frame.is_empty():
        say("Nothing to list: no item is left that may be shown.")
        return
    empty = {name: UNKNOWN if kind.is_float() else "" for name, kind in frame.schema.items()}
    cells = {n: [_cell(v, empty[n]) for v in frame[n]] for n in frame.columns}
    shown = _fitting(cells, console.width)
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in shown:
        right = frame.schema[name].is_numeric() and name != "item"
        table.add_column(name, justify="right" if right else "left", no_wrap=True)
    for row in zip(*(cells[name] for name in shown), strict=True):
        table.add_row(*map(Text, row))
    console.print(table)
    if left_out := [name for name in frame.columns if name not in shown]:
        say(f"Not shown, --json has them: {', '.join(left_out)}.")


def _fitting(cells: Mapping[str, Sequence[str]], width: int) -> list[str]:
    """Return the columns for which there is room: the answer, the title, then the others."""
    first = [name for name in cells if name in ASKED] + [name for name in TITLES if name in cells]
    room, kept = width, set[str]()
    for name in [*first, *(name for name in cells if name not in first)]:
        needs = max(map(len, [name, *cells[name]])) + 2
        if name in first or needs <= room:
            room -= needs
            kept.add(name)
    return [name for name in cells if name in kept]


def _cell(value: object, empty: str = "") -> str:
    """Return a value as the text of a cell."""
    if value is None:
        return empty
    text = f"{value:.4f}" if isinstance(value, float) else " ".join(str(value).split())
    return text if len(text) <= LONGEST_CELL else text[: LONGEST_CELL - 1] + "…"


def show_reports(reports: Mapping[str, Report]) -> None:
    """Print a table of models and metrics, each with its 95 % interval.

    Args:
        reports: Reports by the names of models.
    """
    names = list(dict.fromkeys(name for report in reports.values() for name in report.metrics))
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("model")
    for name in names:
        table.add_column(name, justify="right")
    table.add_column("fit", justify="right")
    for label, report in reports.items():
        cells = [_interval(report, name) for name in names]
        table.add_row(Text(label), *cells, f"{report.fit_seconds:.1f} s")
    console.print(table)


def _interval(report: Report, name: str) -> Text:
    """Return a metric and its interval as the text of a cell."""
    found = report.metrics.get(name)
    if found is None or not found.known:
        return Text(UNKNOWN, style="dim")
    return Text(f"{found.value:.4f}\n").append(f"{found.low:.3f}–{found.high:.3f}", style="dim")


@contextlib.contextmanager
def byte_meter(label: str) -> Iterator[Callable[[int, int], None] | None]:
    """Show a bar of progress in bytes on standard error, on a terminal only.

    Args:
        label: What is read or fetched.

    Returns:
        A function of the bytes so far and in all; None where there is no terminal.
    """
    if not sys.stderr.isatty():
        yield None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(24),
        DownloadColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total or None)


def size(n_bytes: float) -> str:
    """Return a number of bytes with a unit that suits its size.

    Args:
        n_bytes: Bytes.
    """
    for unit in ("B", "KiB", "MiB", "GiB"):
        if n_bytes < 1024 or unit == "GiB":
            return f"{n_bytes:,.0f} {unit}" if unit == "B" else f"{n_bytes:,.1f} {unit}"
        n_bytes /= 1024
    return ""


def seconds(value: float) -> str:
    """Return a duration in words.

    Args:
        value: Seconds.
    """
    if value < 1:
        return "under a second"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes:,} min {rest} s" if minutes else f"{rest} s"
