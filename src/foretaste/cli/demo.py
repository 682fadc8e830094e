"""`foretaste demo`: from a file to recommendations, on real data, in a few minutes."""

from __future__ import annotations

import shlex
import shutil
import time
from pathlib import Path
from typing import Annotated

import polars as pl
import typer

from foretaste.bundle import refuse_foreign
from foretaste.cli.data import checked
from foretaste.cli.models import baselines, finish, show_comparison, training_folder
from foretaste.cli.options import Json, listed, reader
from foretaste.cli.show import emit, headline, say, seconds, show_frame
from foretaste.data.catalog import CATALOG
from foretaste.data.dataset import Dataset
from foretaste.data.splitting import split
from foretaste.evaluation.evaluate import evaluate
from foretaste.experiments.recipes import load_recipe
from foretaste.models.base import configure
from foretaste.models.ease import EASE
from foretaste.models.embedding_net import EmbeddingModel
from foretaste.recommending.fitting import fit
from foretaste.recommending.recommender import Recommender

ARTICLE = "ml-1m-article-embedding-net"
ADDRESS = "http://127.0.0.1:8000"  # of `foretaste serve`
NEW_USER = ["50", "172", "181"]  # Star Wars, The Empire Strikes Back, Return of the Jedi


def demo(
    data: Annotated[
        str, typer.Option(help="A public data set with ratings, or a file of ratings.")
    ] = "ml-100k",
    out: Annotated[Path, typer.Option(help="Folder of the bundle.")] = Path("demo-bundle"),
    as_json: Json = False,
) -> None:
    """Fetch MovieLens 100K, check it, train two networks, evaluate, recommend.

    Example: foretaste demo
    """
    started = time.monotonic()
    _narrate(as_json, f"1. Fetch {data}")
    refuse_foreign(out)
    shutil.rmtree(training_folder(out), ignore_errors=True)  # of an earlier demo
    ratings = reader(data)()
    _narrate(as_json, None, *_summary(ratings, data))
    _narrate(as_json, "2. Train the article's embedding network, then ours")
    parts = split(ratings, "random", test=0.2, seed=1)
    reports = baselines(parts, k=10)
    article = configure(EmbeddingModel, load_recipe(ARTICLE).fields)
    for label, model, folder in (
        ("the article's network", article, training_folder(out) / "article"),
        ("embedding-net (ours)", EmbeddingModel(), training_folder(out)),
    ):
        _narrate(as_json, None, f"{label}:")
        fitted = fit(model, parts.train, folder=folder, progress=True)
        measured = evaluate(fitted, parts)
        beside = {name: report.summary()["metrics"] for name, report in reports.items()}
        fitted.metrics = {**measured.summary(), "beside": beside}
        reports[label] = measured
        pictures = finish(
            fitted, out if folder == training_folder(out) else folder / "bundle", folder
        )
        _narrate(as_json, None, f"Learning curve: {pictures[0]}")
    reports["ease"] = evaluate(fit(EASE(), parts.train, progress=False), parts)
    if as_json:
        emit({"bundle": out, "reports": {name: r.summary() for name, r in reports.items()}})
        return
    headline("3. How good are they? On held-out ratings")
    show_comparison(parts, reports)
    _recommend(fitted, out)
    say(f"  make serve    # a page to see them on: {ADDRESS}")
    say(f"\nDone in {seconds(time.monotonic() - started)}.")


def _narrate(quiet: bool, title: str | None, *lines: str) -> None:
    """Print a title and lines, unless one JSON object is printed at the end."""
    if quiet:
        return
    if title:
        headline(title)
    for line in lines:
        say(line)


def _summary(ratings: Dataset, data: str) -> list[str]:
    """Return lines on the data and its licence."""
    report = checked(ratings)
    lines = [
        f"{ratings!r}",
        f"Ratings from {report.scale[0]:g} to {report.scale[1]:g}, mean {report.mean:.2f}; "
        f"{report.per_user.median:.0f} per user (median); "
        f"{len(report.findings) or 'nothing'} suspicious (see foretaste check {data}).",
    ]
    return [*lines, f"Licence: {CATALOG[data].licence}"] if data in CATALOG else lines


def _recommend(recommender: Recommender, out: Path) -> None:
    """Print lists for a user and for a new user, and commands to try next."""
    user = recommender.dataset.users.values[41 % len(recommender.dataset.users)]
    headline(f"4. Ten for user {user}, who was in training")
    show_frame(_readable(recommender.recommend(user)), as_json=False)
    known = recommender.dataset.items.find(NEW_USER)
    named = [i for i, row in zip(NEW_USER, known, strict=True) if row >= 0]
    named = named or [str(i) for i in recommender.dataset.items.values.head(3)]
    titles = recommender.dataset.item_table
    if titles is not None and "title" in titles.columns:
        liked = titles[recommender.dataset.items.rows(named)]["title"].to_list()
        headline("5. Ten for a new user who likes " + "; ".join(liked))
    else:
        headline("5. Ten for a new user who likes " + ", ".join(named))
    show_frame(_readable(recommender.recommend(history=named)), as_json=False)
    recent = ["--where", "year >= 1990"] if titles is not None and "year" in titles.columns else []
    items, bundle = listed(named), str(out)
    headline("Try next")
    for command in (
        ["recommend", bundle, "--history", items, *recent],
        ["similar", bundle, named[0]],
        ["predict", bundle, "--user", str(user), "--items", items],
        ["check", "your-ratings.csv"],
        ["evaluate", "your-ratings.csv", "--model", "ease", "--split", "time"],
    ):
        say(f"  {shlex.join(['foretaste', *command])}")


def _readable(frame: pl.DataFrame) -> pl.DataFrame:
    """Return the columns of a list that fit a terminal."""
    return frame.select(
        c for c in ("rank", "item", "score", "title", "genres") if c in frame.columns
    )
