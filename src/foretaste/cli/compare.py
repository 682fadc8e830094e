"""`foretaste compare`: models beside the baselines on one split, and a report on what follows."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from foretaste.cli.options import (
    Device,
    EventWeights,
    Json,
    Length,
    Reader,
    Relevance,
    Share,
    reads_ratings,
)
from foretaste.cli.show import console, emit, say, say_progress
from foretaste.cli.values import LEARN
from foretaste.data.splitting import split
from foretaste.evaluation.evaluate import K
from foretaste.experiments.comparison import SEEDS, Comparison, compare_models
from foretaste.experiments.conclusion import conclusion, metric_name
from foretaste.experiments.event_weights import learn_event_weights, reweighed
from foretaste.experiments.report.page import summary, write_report
from foretaste.training.engine import Engine


@reads_ratings
def compare(
    read_ratings: Reader,
    models: Annotated[
        str | None,
        typer.Option(help="Names with commas, without the baselines (default: the quick models)."),
    ] = None,
    how: Annotated[
        str, typer.Option("--split", help="time, leave-last, users, random, or canonical.")
    ] = "random",
    test: Share = 0.2,
    seeds: Annotated[
        int, typer.Option(help="How often a model is trained that depends on its seed.")
    ] = SEEDS,
    k: Length = K,
    out: Annotated[Path, typer.Option(help="Folder of the report.")] = Path("comparison"),
    cold: Annotated[
        bool | None,
        typer.Option(
            "--cold/--no-cold",
            help="Also on new users and new items (default: with models that are quick to fit).",
        ),
    ] = None,
    event_weights: EventWeights = None,
    relevance_threshold: Relevance = None,
    device: Device = Engine.device,
    as_json: Json = False,
) -> None:
    """Measure models side by side, each in a process of its own, and write a report.

    The baselines are always measured. If it is killed, the same command goes on where it was.

    Example: foretaste compare ratings.csv --models ease,als --split time
    """
    ratings = read_ratings()
    names = None if models is None else [name.strip() for name in models.split(",") if name.strip()]

    parts, learned = split(ratings, how, test=test), None
    if event_weights == LEARN:  # by ItemKNN: one set of weights for all that are compared
        learned = learn_event_weights(parts.train, progress=say_progress)
        parts = reweighed(parts, learned.weights, learned.target)
    found = compare_models(
        parts, names, cold_start="all" if cold else cold is None, k=k,
        seeds=seeds, device=device, folder=out, say=say_progress,
        relevance_threshold=relevance_threshold,
    )  # fmt: skip
    pages = write_report(found, out)
    if as_json:
        more = {} if learned is None else {"event_weights": learned.summary()}
        emit(summary(found) | more | {"report": pages[0]})
        return
    _show(found)
    if learned is not None:
        say(learned.sentence)
    say(f"Report: {pages[0]}")


def _show(found: Comparison) -> None:
    """Print the protocol, a line for each model, and the conclusion."""
    say(f"{found.parts.train.name}: {found.parts.protocol}.")
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("model")
    for name in (metric_name(found.metric), "95 % interval", "fit", "peak memory"):
        table.add_column(name, justify="right")
    costs = {row["model"]: row for row in found.costs().iter_rows(named=True)}
    for label, values in found.values.items():
        m, cost = values[found.metric], costs[label]
        table.add_row(
            Text(label, style="dim" if label in found.baselines else ""), f"{m.value:.4f}",
            f"{m.low:.3f}–{m.high:.3f}", f"{cost['fit_seconds']:.1f} s",
            f"{cost['peak_memory_mib']:,.0f} MiB",
        )  # fmt: skip
    console.print(table)
    for label, why in found.failed.items():
        say(f"{label} failed: {why}")
    for sentence in conclusion(found):
        say(sentence)
