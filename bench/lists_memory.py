"""Memory of `recommend_all` as users grow: 2,000 items, 16 factors, lists of ten.

    python -m bench.lists_memory docs/lists-memory

prints the peak beyond the loaded data, each of a process of its own, and draws PATH.svg.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import polars as pl
import torch
from matplotlib import rc_context
from matplotlib.figure import Figure

import foretaste as ft
from foretaste.data.dataset import Dataset
from foretaste.data.interactions import Ids, Interactions
from foretaste.report.drawings import STYLE
from foretaste.report.pictures import ACCENT

USERS = (10_000, 30_000, 100_000, 300_000, 1_000_000)
N_ITEMS, D, SEEN = 2_000, 16, 10


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # MiB


def grown(n_users: int) -> float:
    """MiB that the lists of random users take at the peak, beyond what was there before."""
    rng = np.random.default_rng(0)
    user_r = np.repeat(np.arange(n_users, dtype=np.int32), SEEN)
    item_r = rng.integers(0, N_ITEMS, len(user_r)).astype(np.int32)
    events = Interactions(
        user_r, item_r, np.ones(len(user_r), np.float32), None, np.arange(len(user_r))
    )
    users = Ids(pl.Series("user", np.arange(n_users)), "user")
    items = Ids(pl.Series("item", np.arange(N_ITEMS)), "item")
    model = ft.ALS(n_factors=D)
    model.item_id_ = torch.randn(N_ITEMS, D, generator=torch.Generator().manual_seed(0))
    model.square_d_ = model.item_id_.square().sum(0)
    model.border_, model.scale_, model.newest_ = 1.0, [0.0, 1.0], None
    recommender = ft.Recommender(model, Dataset(users, items, events, explicit=False))
    before = peak()
    with tempfile.TemporaryDirectory() as folder:
        ft.recommend_all(recommender, Path(folder) / "lists.parquet", 10, progress=False)
    return peak() - before


def main(stem: Path) -> None:
    found = []
    for n_users in USERS:
        command = [sys.executable, "-m", "bench.lists_memory", str(n_users)]
        found.append(float(subprocess.check_output(command)))
        print(f"{n_users:,} users: {found[-1]:.0f} MiB", flush=True)
    with rc_context({**STYLE, "savefig.transparent": False, "svg.hashsalt": "foretaste"}):
        figure = Figure(figsize=(6, 3), layout="constrained")
        axes = figure.subplots()
        axes.plot(USERS, found, marker="o", color=ACCENT)
        for n_users, memory in zip(USERS, found, strict=True):
            axes.annotate(
                f"{memory:.0f}", (n_users, memory), xytext=(0, 6), textcoords="offset points"
            )
        axes.set(xscale="log", xlabel="users", ylim=(0, 1.3 * max(found)))
        axes.set_xticks(USERS, [f"{n:,}" for n in USERS])
        axes.minorticks_off()
        axes.set_ylabel("peak beyond the data, MiB")
        figure.savefig(stem.with_suffix(".svg"), metadata={"Date": None})


if __name__ == "__main__":
    if sys.argv[1].isdigit():
        print(grown(int(sys.argv[1])))
    else:
        main(Path(sys.argv[1]))
