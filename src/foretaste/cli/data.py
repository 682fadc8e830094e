"""Commands about data and the machine: fetch, check, doctor."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.table import Table
from rich.text import Text

from foretaste import __version__
from foretaste.cli.options import Json, Reader, reads_ratings
from foretaste.cli.show import byte_meter, console, emit, headline, say, seconds, size
from foretaste.data.catalog import CATALOG
from foretaste.data.checking import CheckReport, Spread
from foretaste.data.checking import check as examine
from foretaste.data.dataset import Dataset
from foretaste.data.fetching import data_folder, entry
from foretaste.data.fetching import fetch as fetch_files
from foretaste.errors import ModelError
from foretaste.models import MODELS
from foretaste.models.base import Shape
from foretaste.models.learning_ratings import LearnsFromRatings

SEVERITY_STYLE = {"note": "dim", "warning": "yellow", "error": "red"}

DECIDED_WITHIN = 5.0  # seconds of a fit, above which `check` does not try penalties of ratings


def fetch(
    name: Annotated[
        str | None, typer.Argument(help="A public data set; without a name they are listed.")
    ] = None,
    folder: Annotated[
        Path | None, typer.Option(help="Folder of the data sets ($FORETASTE_DATA).")
    ] = None,
    offline: Annotated[
        bool, typer.Option("--offline", help="Only look whether it is there; fetch nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Fetch a public data set from its publisher, or from a mirror; checksums are verified.

    Example: foretaste fetch ml-100k
    """
    if name is None:
        _list_catalog(folder, as_json)
        return
    with byte_meter(f"fetching {name}") as meter:
        path = fetch_files(
            name,
            folder,
            progress=meter,
            offline=offline,
            say=lambda line: typer.echo(line, err=True),
        )
    if as_json:
        emit({"name": name, "folder": path, "licence": entry(name).licence})
        return
    say(f"{entry(name).title}: {path}")
    say(f"Licence: {entry(name).licence}")


def _list_catalog(folder: Path | None, as_json: bool) -> None:
    """Print which public data sets there are."""
    root = data_folder(folder)
    rows = [
        {
            "name": e.name,
            "title": e.title,
            "licence": e.licence,
            "present": (root / e.name).is_dir(),
        }
        for e in CATALOG.values()
    ]
    if as_json:
        emit({"folder": root, "data": rows})
        return
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("name", "title", "here"):
        table.add_column(column)
    for row in rows:
        table.add_row(row["name"], Text(row["title"]), "yes" if row["present"] else "")
    console.print(table)
    say(f"They are kept in {root}; set FORETASTE_DATA to change that.")


@reads_ratings
def check(
    read_ratings: Reader,
    as_json: Json = False,
) -> None:
    """Report on a table before training: counts, oddities, and what models would cost.

    Example: foretaste check ratings.csv
    """
    ratings = read_ratings()
    report = checked(ratings)
    if as_json:
        emit(report.as_json())
        return
    show_check(report)


def checked(ratings: Dataset) -> CheckReport:
    """Return the report on a Dataset, with costs and defaults of every model that suits it.

    Args:
        ratings: The data.
    """
    shape = Shape(len(ratings.users), len(ratings.items), len(ratings))
    able = {n: m for n, m in MODELS.items() if ratings.explicit or not m.needs_ratings}
    report = examine(ratings, {name: model().cost(shape) for name, model in able.items()})
    decided = {}
    for name, model in able.items():
        if issubclass(model, LearnsFromRatings) and report.costs[name].seconds > DECIDED_WITHIN:
            continue  # such models decide by fits to held-out ratings; training says what it found
        with contextlib.suppress(ModelError):  # nothing is liked, say: then nothing is decided
            decided[name] = model().auto_fields(ratings)
    return replace(report, defaults={name: fields for name, fields in decided.items() if fields})


def show_check(report: CheckReport) -> None:
    """Print a report as text.

    Args:
        report: The report.
    """
    what = "ratings" if report.explicit else "interactions without ratings"
    headline(f"{report.name}: {report.interactions:,} {what}")
    say(f"{report.users:,} users, {report.items:,} items, {report.density:.2%} of all pairs.")
    lost = f"{report.rows:,} rows read, {report.dropped:,} dropped, {report.merged:,} merged"
    say(f"{lost} (same user and item: {report.duplicates} kept).")
    for note in report.notes:
        say(f"Note: {note}.")
    say(_spread("Per user", report.per_user))
    say(_spread("Per item", report.per_item))
    if report.times:
        t = report.times
        say(f"From {t.first} to {t.last}: {t.days:,.0f} days, to the {t.resolution}.")
    if report.cold:
        c = report.cold
        say(
            f"Trained before {c.border[:10]}: {c.cold_users:,} of {c.test_users:,} later users and "
            f"{c.cold_items:,} of {c.test_items:,} items would be new."
        )
    if report.explicit:
        _show_histogram(report)
    if report.item_columns:
        headline("Item columns, as models of content read them")
    for column in report.item_columns:
        made = f"{column.features:,} features" if column.features else "left out"
        say(f"  {column.name:<24} {column.kind:<9} {column.filled:>5.0%} filled  {made}")
    headline("Suspicious" if report.findings else "Nothing suspicious.")
    for finding in report.findings:
        console.print(
            Text(finding.severity, style=SEVERITY_STYLE.get(finding.severity, "")), end="  "
        )
        say(f"{finding.what} {finding.fix}")
    headline("What models would take, roughly, on two cores")
    for name, cost in report.costs.items():
        say(f"  {name:<16} {seconds(cost.seconds):>16}  {size(cost.memory_bytes):>12}  {cost.note}")
    if report.defaults:
        headline("What these data decide of the defaults")
    for name, fields in report.defaults.items():
        say(f"  {name:<16} {', '.join(f'{field} {value:.3g}' for field, value in fields.items())}")


def _spread(label: str, spread: Spread) -> str:
    """Return a distribution as a sentence."""
    return (
        f"{label}: median {spread.median:,.0f}, mean {spread.mean:,.1f}, "
        f"from {spread.min:,.0f} to {spread.max:,.0f}."
    )


def _show_histogram(report: CheckReport) -> None:
    """Print how often each value occurs."""
    largest = max(b.count for b in report.histogram)
    say(f"Values from {report.scale[0]:g} to {report.scale[1]:g}, mean {report.mean:.3f}:")
    for b in report.histogram:
        label = f"{b.low:g}" if b.low == b.high else f"{b.low:g} to {b.high:g}"
        bar = "█" * round(40 * b.count / largest)
        say(f"  {label:>12} {bar} {b.count:,}")


def doctor(as_json: Json = False) -> None:
    """Show what this installation has: versions, device, threads, and where data live.

    Example: foretaste doctor
    """
    root = data_folder()
    found = {
        "foretaste": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        **{name: metadata.version(name) for name in ("torch", "polars", "numpy", "scipy")},
        "device": "cuda" if torch.cuda.is_available() else "cpu",
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "data_folder": str(root),
        "data_free": size(shutil.disk_usage(_existing(root)).free),
    }
    if as_json:
        emit(found)
        return
    for name, value in found.items():
        say(f"{name:<12} {value}")


def _existing(path: Path) -> Path:
    """Return the nearest folder above a path that exists."""
    while not path.exists():
        path = path.parent
    return path
