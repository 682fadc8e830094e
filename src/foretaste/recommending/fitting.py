"""From data to a Recommender: `fit` trains one, `load` reads one from a bundle."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import polars as pl

from foretaste import bundle
from foretaste.data.building import from_tables
from foretaste.data.dataset import Dataset
from foretaste.data.values import liked_note
from foretaste.errors import BundleError, ModelError, UsageError, refuse_fork
from foretaste.models import MODELS
from foretaste.models.base import Model, configure, default_threshold
from foretaste.models.likes import LearnsFromLikes
from foretaste.models.newcomers.learning import learn_prior
from foretaste.recommending.recommender import Recommender
from foretaste.training.engine import Engine


def fit(
    model: Model,
    train: Dataset,
    *,
    engine: Engine | None = None,
    seed: int | None = None,
    device: str | None = None,
    precision: str | None = None,
    folder: str | Path | None = None,
    progress: bool | None = None,
) -> Recommender:
    """Fit a model to a Dataset and return a Recommender; the model handed in is not changed.

    Args:
        model: Says what to learn, by its fields.  A copy of it is fitted: it may be used again.
        train: What to learn from.
        engine: How training runs, in place of all that follows.
        seed: Everything random follows from it (0 by default).
        device: "auto" (by default), "cpu", "cuda", ...
        precision: "float32" (by default) or "bfloat16".
        folder: Where to keep checkpoints and the run log.  Called again with the same arguments
            after a crash, training goes on from there exactly.
        progress: Whether to show a bar on standard error; by default on a terminal.

    Returns:
        A Recommender whose `model` is the fitted copy.

    Raises:
        ModelError: Where the data are not what the model needs, or training fails.
        UsageError: Where an engine is given beside what it says itself.
        CheckpointError: Where the folder holds a checkpoint of another run.

    Example:
        >>> import foretaste as ft
        >>> import polars as pl
        >>> stars = pl.DataFrame({"user": [1, 2], "item": [7, 7], "rating": [3, 5]})
        >>> ft.fit(ft.GlobalMean(), ft.from_frame(stars)).predict([1], [7])["rating"].to_list()
        [4.0]
    """
    own = {"seed": seed, "device": device, "precision": precision}
    given = {name: value for name, value in own.items() if value is not None}
    if engine is None:
        show = sys.stderr.isatty() if progress is None else progress
        where = None if folder is None else Path(folder)
        engine = Engine(**given, folder=where, progress=sys.stderr if show else None)  # type: ignore[arg-type]
    elif given or folder is not None or progress is not None:
        raise UsageError(
            "an engine and what it says itself were both given.",
            fix="Make it so: Engine(seed=..., device=..., folder=...).",
        )
    if model.needs_ratings and not train.explicit:
        raise ModelError(
            f"{model.name} needs ratings, and {train.name} has none.",
            fix="Name the column with --rating-column, or choose a model for clicks: popularity.",
        )
    if model.needs_interactions and not len(train):
        able = [name for name, known in MODELS.items() if not known.needs_interactions]
        raise ModelError(
            f"{model.name} learns from interactions, and {train.name} has items alone.",
            fix=f"Give ratings or clicks, or train one of {', '.join(able)}.",
        )
    refuse_fork()
    started = time.monotonic()
    fitted = model.unfitted().fit(train, engine)
    training: dict[str, Any] = {
        "seed": engine.seed, "precision": engine.precision, "random": bool(engine.drawn),
    }  # fmt: skip
    notes = [*getattr(fitted, "notes_", [])]
    curve = getattr(fitted, "curve_", [])
    if curve and curve[-1].get("interrupted"):
        training["interrupted"] = True
    elif isinstance(fitted, LearnsFromLikes) and (found := learn_prior(fitted, train, engine)):
        training["prior"] = found.prior.record()
        notes += found.notes
    fields = fitted.hyperparameters()
    if "positive_threshold" in fields:
        note = liked_note(train, default_threshold(train, fields["positive_threshold"]))
        notes += [note] if note else []
    if notes:
        training["notes"] = notes
    training["seconds"] = time.monotonic() - started
    return Recommender(fitted, train, training)


def load(folder: str | Path) -> Recommender:
    """Read a bundle, every byte verified.

    Args:
        folder: Where `Recommender.save` or `foretaste train` wrote it.

    Raises:
        BundleError: Where there is no bundle, or a part of it is damaged or of a newer format.

    Example:
        >>> import foretaste as ft
        >>> import polars as pl
        >>> import tempfile
        >>> clicks = ft.from_frame(pl.DataFrame({"user": [1, 2], "item": [7, 7]}))
        >>> folder = ft.fit(ft.Popularity(), clicks).save(tempfile.mkdtemp())
        >>> ft.load(folder).recommend(history=[], k=1)["item"].to_list()
        [7]
    """
    parts = bundle.read(folder)
    try:
        about, data = parts.values["model"], parts.values["data"]
        if about["name"] not in MODELS:
            raise BundleError(
                f"the bundle holds a model {about['name']!r}, which this foretaste does not have.",
                where=folder, fix=f"It has {', '.join(MODELS)}; upgrade, or train again.",
            )  # fmt: skip
        model = configure(MODELS[about["name"]], about["fields"])
        model.restore(parts.tensors, about["learned"])
        dataset = from_tables(data, parts.tables)
        return Recommender(model, dataset, parts.values["training"], parts.values["metrics"])
    except (KeyError, TypeError, RuntimeError, UsageError, pl.exceptions.PolarsError) as error:
        raise BundleError(
            f"a part of the bundle is missing or of the wrong kind ({error}).",
            where=folder, fix="Train again.",
        ) from None  # fmt: skip


def _at_least_one(k: int) -> None:
    if k < 1:
        raise UsageError(f"k={k}.", fix="Ask for at least one item.")
