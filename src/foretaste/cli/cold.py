"""`foretaste cold-start`: how good models are for new items and new users."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import polars as pl
import typer

from foretaste.cli.options import Device, Fields, Json, Length, Reader, Seed, reads_ratings
from foretaste.cli.show import emit, say, show_frame
from foretaste.cli.values import fields_from
from foretaste.data.dataset import Dataset
from foretaste.evaluation.cold_start import evaluate_cold_items, evaluate_cold_users
from foretaste.evaluation.evaluate import K
from foretaste.experiments.entrants import plain_similarity
from foretaste.experiments.report.pictures import cold_start_curve
from foretaste.models import model_named
from foretaste.models.base import Model, configure
from foretaste.models.baselines import Popularity, Random
from foretaste.training.engine import Engine


@reads_ratings
def cold_start(
    read_ratings: Reader,
    of: Annotated[
        Literal["items", "users"], typer.Option(help="What is new: items or users.")
    ] = "items",
    model: Annotated[
        list[str] | None, typer.Option(help="A model to measure beside the baselines; repeatable.")
    ] = None,
    k: Length = K,
    metric: Annotated[str, typer.Option(help="recall, ndcg, precision, hit_rate or mrr.")] = "ndcg",
    picture: Annotated[
        Path | None, typer.Option(help="Path of a picture without its ending, for .png and .svg.")
    ] = None,
    settings: Fields = None,
    seed: Seed = Engine.seed,
    device: Device = Engine.device,
    as_json: Json = False,
) -> None:
    """Measure models on items without ratings, or on users with few interactions.

    With --of items a fifth of the items is held out; they are ranked by their columns alone, among
    themselves and among all. With --of users the first 0, 1, 3 and 10 interactions of users who are
    not in training are given.

    Example: foretaste cold-start ml-latest-small --of items --model aligned-als --model two-tower
    """
    names = model or (["aligned-als"] if of == "items" else ["als", "ease"])
    fields = fields_from(settings)
    ratings = read_ratings()
    entrants = baselines(of, ratings)
    entrants |= {name: configure(model_named(name), fields) for name in names}
    measure = evaluate_cold_items if of == "items" else evaluate_cold_users
    found = measure(entrants, ratings, k=k, seed=seed, device=device)
    name, frame = f"{metric}@{k}", found.frame()
    pictures = []
    if picture is not None:
        title = f"New {of} of {ratings.name}"
        pictures = cold_start_curve(frame, name, picture, title=title)
    if as_json:
        emit({"protocol": found.protocol, "rows": frame.to_dicts(), "pictures": pictures})
        return
    say(f"{ratings.name}: {found.protocol}. {name}, 95 % intervals over users.")
    chosen = frame.filter(metric=name).drop("metric")
    show_frame(chosen.select("model", "case", pl.col("value", "low", "high")), as_json=False)
    for path in pictures:
        say(f"Picture: {path}")


def baselines(of: str, ratings: Dataset) -> dict[str, Model]:
    """Return what a model must beat: chance, popularity and, for new items, plain similarity.

    Args:
        of: What is new, "items" or "users".
        ratings: Its item columns decide which similarities there are.
    """
    entrants: dict[str, Model] = {m.name: m for m in (Random(), Popularity())}
    if of == "items":
        entrants |= plain_similarity(ratings)
    return entrants
