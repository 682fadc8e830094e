"""Cross-validation: the same model on complementary parts of the ratings."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
from scipy import stats

from foretaste.data.dataset import Dataset
from foretaste.data.splitting import folds_of
from foretaste.evaluation.evaluate import evaluate
from foretaste.models.base import Model
from foretaste.recommending.recommender import fit


def cross_validate(
    model: Model, ratings: Dataset, folds: int = 5, *, k: int = 10, seed: int = 0,
    ranking: bool = True, device: str = "auto", progress: bool | None = None,
) -> pl.DataFrame:  # fmt: skip
    """Fit to all folds but one, measure on that one, for each of them.

    Returns metric, mean, low, high, and the value of each fold.  low, high: 95 %, Student's t over
    the folds, which share training data: rather narrow (Bengio and Grandvalet 2004).
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
