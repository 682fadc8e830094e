"""`foretaste demo`: from a file to recommendations, on real data, in a few minutes."""

from __future__ import annotations

import shlex
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import polars as pl
import typer

from foretaste.bundle import refuse_foreign
from foretaste.cli.data import checked
from foretaste.cli.models import baselines, finish, show_comparison, training_folder
from foretaste.cli.options import Json, reader
from foretaste.cli.show import emit, headline, say, seconds, show_frame
from foretaste.cli.values import listed
from foretaste.data.catalog import CATALOG
from foretaste.data.dataset import Dataset
from foretaste.data.splitting import split
from foretaste.evaluation.evaluate import Report, evaluate
from foretaste.experiments.recipes import load_recipe
from foretaste.models.base import configure
from foretaste.models.ease import EASE
from foretaste.models.embedding_net import EmbeddingModel
from foretaste.recommending.fitting import fit
from foretaste.recommending.recommender import Recommender

ARTICLE = "ml-1m-article-embedding-net"
ADDRESS = "http://127.0.0.1:8000"  # of `foretaste serve`
SHOWN = "embedding-net (ours)", "ease"  # whose lists are shown
NAME_WIDTH = 33  # characters of a title in a list beside another
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
        (SHOWN[0], EmbeddingModel(), training_folder(out)),
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
    lists = fit(EASE(), parts.train, progress=False)
    reports[SHOWN[1]] = evaluate(lists, parts)
    lists.metrics = reports[SHOWN[1]].summary()
    lists.save(training_folder(out) / "ease")
    if as_json:
        emit({"bundle": out, "reports": {name: r.summary() for name, r in reports.items()}})
        return
    headline("3. How good are they? On held-out ratings")
    show_comparison(parts, reports)
    _say_whose_lists(reports)
    _recommend(fitted, lists, out)
    say(f"  {shlex.join(['foretaste', 'serve', str(training_folder(out) / 'ease')])}")
    say(f"  make serve    # a page to see the network's lists on: {ADDRESS}")
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


def _say_whose_lists(reports: Mapping[str, Report]) -> None:
    """Say which of the two models makes the better lists, and why that is no wonder."""
    ndcg = {name: reports[name].summary()["metrics"]["ndcg@10"]["value"] for name in SHOWN}
    better, other = sorted(SHOWN, key=lambda name: -ndcg[name])
    say(
        f"\nFor lists, {better} is the better one here: NDCG@10 {ndcg[better]:.3f} against "
        f"{ndcg[other]:.3f}. The networks learn what somebody would rate an item; ease learns which "
        "items somebody picks at all, and that is what a list is asked for. Below both side by side."
    )


def _recommend(network: Recommender, lists: Recommender, out: Path) -> None:
    """Print lists for a user and for a new user, and commands to try next."""
    dataset = network.dataset
    user = dataset.users.values[41 % len(dataset.users)]
    headline(f"4. Ten for user {user}, who was in training")
    show_frame(_side_by_side(network.recommend(user), lists.recommend(user)), as_json=False)
    known = dataset.items.find(NEW_USER)
    named = [i for i, row in zip(NEW_USER, known, strict=True) if row >= 0]
    named = named or [str(i) for i in dataset.items.values.head(3)]
    titles = dataset.item_table
    if titles is not None and "title" in titles.columns:
        liked = titles[dataset.items.rows(named)]["title"].to_list()
        headline("5. Ten for a new user who likes " + "; ".join(liked))
    else:
        headline("5. Ten for a new user who likes " + ", ".join(named))
    ours, best = (r.recommend(history=named) for r in (network, lists))
    show_frame(_side_by_side(ours, best), as_json=False)
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


def _side_by_side(ours: pl.DataFrame, best: pl.DataFrame) -> pl.DataFrame:
    """Return the names of two lists beside each other, cut so that both fit 80 columns."""
    name = "title" if "title" in ours.columns else "item"
    best_k, ours_k = ([_cut(str(cell)) for cell in frame[name]] for frame in (best, ours))
    ours_k += [""] * (len(best_k) - len(ours_k))
    return pl.DataFrame({"rank": best["rank"], SHOWN[1]: best_k, SHOWN[0]: ours_k})


def _cut(name: str) -> str:
    """Return a name of NAME_WIDTH characters at most."""
    return name if len(name) <= NAME_WIDTH else name[: NAME_WIDTH - 1] + "…"
