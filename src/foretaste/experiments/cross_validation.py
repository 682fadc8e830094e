"""Cross-validation: the same model on complementary parts of the ratings."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
from scipy import stats

from foretaste.data.dataset import Dataset
from foretaste.data.splitting import folds_of
from foretaste.evaluation.evaluate import K, evaluate
from foretaste.models.base import Model
from foretaste.recommending.fitting import fit
from foretaste.training.engine import Engine


def cross_validate(
    model: Model, ratings: Dataset, folds: int = 5, *, k: int = K, seed: int = Engine.seed,
    ranking: bool = True, device: str = Engine.device, progress: bool | None = None,
) -> pl.DataFrame:  # fmt: skip
    """Fit to all folds but one, measure on that one, for each of them.

    Args:
        model: What to fit; it is left as it is.
        ratings: What is divided into folds, at random.
        folds: How many.
        k: Length of the lists.
        seed: Of the folds and of every fit.
        ranking: Whether lists are measured too, not only ratings.
        device: Where to fit: "auto", "cpu" or "cuda".
        progress: Whether each fit shows its progress; None where there is a terminal.

    Returns:
        metric, mean, low, high, and the value of each fold. low and high: 95 %, Student's t over
        the folds, which share training data: rather narrow (Bengio and Grandvalet 2004).

    Raises:
        UsageError: There are fewer than two folds, or more than ratings.

    Example:
        >>> import foretaste as ft
        >>> import polars as pl
        >>> ratings = ft.from_frame(pl.DataFrame({"user": [1, 1, 2, 2], "item": [1, 2, 1, 2],
        ...                                       "rating": [5.0, 3.0, 4.0, 2.0]}))
        >>> ft.cross_validate(ft.GlobalMean(), ratings, folds=2, ranking=False)["metric"].to_list()
        ['rmse', 'mae']
    """
    measured = []
    for parts in folds_of(ratings, folds, seed=seed):
        fitted = fit(replace(model), parts.train, seed=seed, device=device, progress=progress)
        report = evaluate(fitted, parts, k=k, ranking=ranking)
        measured.append({name: found.value for name, found in report.metrics.items()})
    value_fm = np.array([[fold[name] for name in measured[0]] for fold in measured])
    mean_m = value_fm.mean(axis=0)
    reach_m = stats.t.ppf(0.975, folds - 1) * value_fm.std(axis=0, ddof=1) / np.sqrt(folds)
    columns = {"metric": list(measured[0]), "mean": mean_m, "low": mean_m - reach_m}
    columns |= {"high": mean_m + reach_m}
    columns |= {f"fold_{f}": row for f, row in enumerate(value_fm, 1)}
    return pl.DataFrame(columns).fill_nan(None)
