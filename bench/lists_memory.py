"""Memory of `recommend_all` as users grow: 2,000 items, 16 factors, lists of ten.

    python -m bench.lists_memory docs/lists-memory
    python -m bench.lists_memory 1000000 100000 64

The first prints the peak beyond the loaded data, each of a process of its own, and draws PATH.svg.
The second is one run of that many users, items and factors, and prints its rate and size too.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import torch
from matplotlib import rc_context
from matplotlib.figure import Figure

import foretaste as ft
from foretaste.data.dataset import Dataset
from foretaste.data.interactions import Ids, Interactions
from foretaste.experiments.report.drawings import STYLE
from foretaste.experiments.report.pictures import ACCENT

USERS = (10_000, 30_000, 100_000, 300_000, 1_000_000)
SEEN = 10


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # MiB


@dataclass
class Run:
    """Lists of random users: MiB at the peak beyond what was there before, seconds, file size."""

    grown: float
    peak: float
    seconds: float
    cpu_seconds: float
    file: float


def run(n_users: int, n_items: int = 2_000, d: int = 16) -> Run:
    rng = np.random.default_rng(0)
    user_r = np.repeat(np.arange(n_users, dtype=np.int32), SEEN)
    item_r = rng.integers(0, n_items, len(user_r)).astype(np.int32)
    events = Interactions(
        user_r, item_r, np.ones(len(user_r), np.float32), None, np.arange(len(user_r))
    )
    users = Ids(pl.Series("user", np.arange(n_users)), "user")
    items = Ids(pl.Series("item", np.arange(n_items)), "item")
    model = ft.ALS(n_factors=d)
    model.item_id_ = torch.randn(n_items, d, generator=torch.Generator().manual_seed(0))
    model.square_d_ = model.unseen * model.item_id_.square().sum(0)
    model.prior_d_ = torch.zeros_like(model.square_d_)
    model.border_, model.scale_, model.newest_ = 1.0, [0.0, 1.0], None
    recommender = ft.Recommender(model, Dataset(users, items, events, explicit=False))
    before, started, cpu = peak(), time.perf_counter(), time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        out = ft.recommend_all(recommender, Path(folder) / "lists.parquet", 10, progress=False)
        seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
        return Run(peak() - before, peak(), seconds, cpu, out.stat().st_size / 2**20)


def main(stem: Path) -> None:
    found = []
    for n_users in USERS:
        command = [sys.executable, "-m", "bench.lists_memory", str(n_users)]
        found.append(float(subprocess.check_output(command).split()[0]))
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
        one = run(*map(int, sys.argv[1:]))
        print(
            f"{one.grown:.0f} MiB beyond the data, {one.peak:.0f} in all; {one.seconds:.1f} s, "
            f"{one.cpu_seconds:.1f} of processor time; {one.file:.0f} MiB of Parquet"
        )
    else:
        main(Path(sys.argv[1]))
