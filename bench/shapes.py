"""Data sets to judge defaults on: those of the shared folder, and synthetic ones of other shapes.

A synthetic user likes items in proportion to popularity (Zipf's law) times exp(taste), where taste
is the product of hidden factors; how many, follows a log-normal law.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

import foretaste as ft
from foretaste.data.fetching import data_folder

CANDIDATES = 40  # drawn by popularity for each like, of which tastes choose
SYNTHETIC = {  # users, items, likes of a user: densities 1e-1 to 1e-5
    "synthetic-1e-1": (1_500, 400, 40.0),
    "synthetic-1e-2": (3_000, 3_000, 30.0),
    "synthetic-1e-3": (10_000, 10_000, 10.0),
    "synthetic-1e-4": (20_000, 60_000, 6.0),
    "synthetic-1e-5": (20_000, 300_000, 3.0),
}
REAL = (
    "ml-100k", "ml-latest-small", "ml-1m", "gowalla", "grocery", "s3rec-toys", "s3rec-yelp",
)  # fmt: skip


def synthetic(n_users: int, n_items: int, mean: float, seed: int = 0) -> ft.Dataset:
    """Return clicks of a shape.

    Args:
        n_users: How many users there are.
        n_items: How many items there are.
        mean: Mean number of likes of a user, about.
        seed: Of everything that is drawn.
    """
    rng = np.random.default_rng(seed)
    popularity_i = (np.arange(n_items) + 10.0) ** -0.8
    popularity_i = rng.permutation(popularity_i / popularity_i.sum())
    factors = 12
    user_ud = rng.standard_normal((n_users, factors)) * (rng.random((n_users, factors)) < 0.3)
    item_id = rng.standard_normal((n_items, factors)) * (rng.random((n_items, factors)) < 0.3)
    count_u = np.ceil(mean * rng.lognormal(-0.32, 0.8, n_users)).clip(1, n_items // 3).astype(int)
    users, items = [], []
    edges_i = popularity_i.cumsum()
    for u in range(n_users):
        drawn = np.searchsorted(edges_i, rng.random(CANDIDATES * count_u[u]) * edges_i[-1])
        drawn = np.unique(drawn.clip(max=n_items - 1))
        taste = 2.0 * item_id[drawn] @ user_ud[u] + rng.gumbel(size=len(drawn))
        chosen = drawn[np.argsort(-taste)[: count_u[u]]]
        users.append(np.full(len(chosen), u))
        items.append(chosen)
    frame = pl.DataFrame({"user": np.concatenate(users), "item": np.concatenate(items)})
    return ft.from_frame(frame, name=f"{n_users} x {n_items}")


def sequences(path: Path) -> ft.Dataset:
    """Return clicks from lines of a user and the items of the user.

    Args:
        path: The file.
    """
    rows = [line.split() for line in path.read_text().splitlines()]
    pairs = [(user, item) for user, *items in rows for item in items]
    return ft.from_frame(pl.DataFrame(pairs, schema=["user", "item"], orient="row"))


def dataset(name: str) -> ft.Dataset:
    """Return a data set of REAL or SYNTHETIC.

    Args:
        name: Its name.
    """
    if name in SYNTHETIC:
        return synthetic(*SYNTHETIC[name])
    folder = data_folder(None)
    if name == "gowalla":
        return sequences(folder / "gowalla-lightgcn" / "train.txt")
    if name.startswith("s3rec"):
        return sequences(next(p for p in (folder / name).iterdir() if p.suffix == ".txt"))
    if name == "grocery":
        return ft.read(folder / name / "train.csv")
    return ft.load_dataset(name)
