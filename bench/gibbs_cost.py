"""Processor seconds and memory of one Gibbs sweep against ratings and rank; draws the docs' plot.

python -m bench.gibbs_cost docs/bayesian-mf-cost.svg
"""

from __future__ import annotations

import json
import subprocess
import sys
import time

import numpy as np
import polars as pl
import torch

import foretaste as ft
from foretaste.data.dataset import Dataset
from foretaste.data.interactions import Ids, Interactions
from foretaste.evaluation.evaluate import peak_memory
from foretaste.models.bayesian import gibbs

SIZES = (100_000, 300_000, 1_000_000, 3_000_000, 10_000_000, 20_000_000)
RANKS = (16, 32)
SWEEPS = 3


def synthetic(n: int) -> Dataset:
    """Ratings with the long tails of MovieLens: 145 of a user, 740 of an item on average."""
    rng = np.random.default_rng(0)
    n_users, n_items = max(500, n // 145), max(500, n // 740)
    user_r, item_r = ((rng.random(n) ** 2 * rows).astype(np.int32) for rows in (n_users, n_items))
    value_r = rng.integers(1, 6, n).astype(np.float32)
    x = Interactions(np.sort(user_r), item_r, value_r, None, np.arange(n))
    ids = (Ids(pl.Series(np.arange(rows)), kind) for rows, kind in
           ((n_users, "user"), (n_items, "item")))  # fmt: skip
    return Dataset(*ids, x, explicit=True, name="synthetic")


def measure(n: int, rank: int) -> dict[str, float]:
    """Processor seconds of a sweep, of the setup, and the peak memory of this process."""
    dataset, rng = synthetic(n), torch.Generator().manual_seed(0)
    before, started = peak_memory(), time.process_time()
    model = ft.BayesianMF(n_factors=rank)
    chain = model._chain(dataset, torch.device("cpu"), rng)
    setup = time.process_time() - started
    gibbs.sweep(chain, 0, rng)
    started = time.process_time()
    for number in range(SWEEPS):
        gibbs.sweep(chain, number + 5, rng)
    took = (time.process_time() - started) / SWEEPS
    return {"ratings": n, "rank": rank, "sweep": took, "setup": setup,
            "peak_bytes": peak_memory(), "before_bytes": before}  # fmt: skip


def draw(found: list[dict[str, float]], path: str) -> None:
    """Two panels: seconds of a sweep, and peak memory."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.2), layout="constrained")
    seconds, memory = figure.subplots(1, 2)
    for rank in RANKS:
        own = [f for f in found if f["rank"] == rank]
        x = [f["ratings"] for f in own]
        seconds.loglog(x, [f["sweep"] for f in own], "o-", label=f"{rank} factors")
        memory.loglog(x, [f["peak_bytes"] / 1e9 for f in own], "o-", label=f"{rank} factors")
    seconds.set(xlabel="ratings", ylabel="processor seconds a sweep")
    memory.set(xlabel="ratings", ylabel="peak memory of the process, GB")
    for axes in (seconds, memory):
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(path, metadata={"Date": None} if path.endswith(".svg") else None)


def main() -> None:
    if len(sys.argv) == 3:
        print(json.dumps(measure(int(sys.argv[1]), int(sys.argv[2]))))
        return
    found = []
    for n in SIZES:
        for rank in RANKS:
            run = [sys.executable, "-m", "bench.gibbs_cost", str(n), str(rank)]
            done = subprocess.run(run, check=True, capture_output=True, text=True)
            found.append(json.loads(done.stdout))
            print(found[-1], flush=True)
            if len(sys.argv) == 2:
                draw(found, sys.argv[1])


if __name__ == "__main__":
    main()
