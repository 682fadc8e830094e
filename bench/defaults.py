"""NDCG@10 of models over grids of fields, on validation parts carved from train, as JSON lines.

python -m bench.defaults OUT.jsonl als ml-100k gowalla ...
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import foretaste as ft
from bench.shapes import dataset
from foretaste.models.base import Model

USERS = 1_500  # who are scored, at most


def validation(data: ft.Dataset, *, part: str = "validation") -> ft.Split:
    """Return a split of a fifth at random: of the data, or of what such a split trains on.

    Args:
        data: The interactions.
        part: "test" or "validation".
    """
    parts = ft.split(data, "random", test=0.2, seed=0)
    if part == "validation":
        parts = ft.split(parts.train, "random", test=0.2, seed=1)
    users = np.random.default_rng(0).permutation(len(parts.test.users))[:USERS]
    kept_r = np.isin(parts.test.interactions.user_r, users)
    return dataclasses.replace(parts, test=parts.test.take(kept_r))


def figures(train: ft.Dataset) -> dict[str, float]:
    """Return what rules may read of the data.

    Args:
        train: What is learned from.
    """
    X_ui = ft.EASE().learn_likes(train)
    return {
        "users": X_ui.shape[0], "items": X_ui.shape[1], "likes": X_ui.nnz,
        "density": X_ui.nnz / (X_ui.shape[0] * X_ui.shape[1]),
        "met": float(np.square(X_ui.sum(axis=0)).sum() / X_ui.nnz),  # likes of the item of a like
        "active": float(np.square(X_ui.sum(axis=1)).sum() / X_ui.nnz),  # of the user of a like
    }  # fmt: skip


def grid(model: str, train: ft.Dataset) -> Iterator[tuple[str, Model, dict[str, Any]]]:
    """Yield models to try: a label, the model, and what to note beside it.

    Args:
        model: The name of a grid.
        train: What is learned from.
    """
    density = figures(train)["density"]
    yield "popularity", ft.Popularity(), {}
    if model == "als":
        about = figures(train)
        c = 2.4 * (about["users"] * about["items"]) ** 0.125
        tried = [(c, r, 64) for r in (0.07, 0.2, 0.4)] + [(c, r, 256) for r in (0.2, 0.1)]
        yield "old", ft.ALS(unseen=0.1, l2=0.01, n_factors=64, fallback="none"), {}
        for c, r, n_factors in tried:
            fields = {"unseen": c * density, "l2": r / (1 + c), "n_factors": n_factors}
            yield "als", ft.ALS(**fields, fallback="none"), {**fields, "c": c, "r": r}
    elif model == "ease":
        for l2 in (5, 15, 50, 100, 200, 400, 800):
            yield "ease", ft.EASE(l2=l2, fallback="none"), {"l2": l2}
    elif model == "sparse-ease":
        for l2 in (10, 40, 160):
            yield "sparse-ease", ft.SparseEASE(l2=l2, neighbours=100, fallback="none"), {"l2": l2}


def main(out: str, model: str, *names: str) -> None:
    """Append a line for each fit."""
    for name in names:
        parts = validation(dataset(name))
        about = figures(parts.train)
        for label, tried, fields in grid(model, parts.train):
            started = time.perf_counter()
            recommender = ft.fit(tried, parts.train, progress=False)
            seconds = time.perf_counter() - started
            report = ft.evaluate(recommender, parts, k=10, ratings=False)
            found = {"data": name, "model": label, **fields, **about, "seconds": seconds}
            found["ndcg"] = report.metrics["ndcg@10"].value
            with Path(out).open("a") as file:
                file.write(json.dumps(found) + "\n")
            print(name, label, fields, f"{found['ndcg']:.4f} {seconds:.1f} s", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
