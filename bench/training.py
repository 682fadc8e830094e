"""Samples a second of one epoch: the article's network and ours, beside a bare loop; two towers."""

from __future__ import annotations

import time

import numpy as np
import polars as pl
import torch
from torch.profiler import ProfilerActivity, profile

import foretaste as ft
from foretaste.experiments.recipes import load_recipe
from foretaste.models.networks import EmbeddingNet

N_USERS, N_ITEMS, N_ROWS = 6_040, 3_706, 200_000
N_TOWER_ROWS, N_LIKES = 1_000_000, 575_000  # as many as ML-1M has
PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm", "aten::addbmm", "aten::baddbmm")


def ratings() -> ft.Dataset:
    rng = np.random.default_rng(0)
    pair = rng.choice(N_USERS * N_ITEMS, N_ROWS, replace=False)
    frame = {"user": pair // N_ITEMS, "item": pair % N_ITEMS, "rating": rng.integers(1, 6, N_ROWS)}
    return ft.from_frame(pl.DataFrame(frame))


def bare_epoch(dataset: ft.Dataset, size: int) -> float:
    """The article's network by nothing but torch: seconds."""
    x = dataset.interactions
    columns = [torch.from_numpy(a) for a in (x.user_r.astype(int), x.item_r.astype(int), x.value_r)]
    network = EmbeddingNet(len(dataset.users), len(dataset.items)).train()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, weight_decay=1e-5, fused=True)
    started = time.perf_counter()
    order = torch.randperm(len(dataset))
    for rows in order.split(size):
        user_b, item_b, rating_b = (c[rows] for c in columns)
        optimizer.zero_grad()
        (network(user_b, item_b) - rating_b).square().mean().backward()
        optimizer.step()
    return time.perf_counter() - started


def two_towers() -> tuple[float, float]:
    """Ratings a second, and the share of the time of training outside matrix products.

    Products are what torch calls mm, addmm or bmm, sparse ones among them: self CPU time by its
    profiler.  The time of training is that of the whole epochs by the clock, without the profiler:
    batches, gradients, optimizer and Python included.  Medians of five runs in turn.
    """
    rng = np.random.default_rng(0)
    pair = rng.choice(N_USERS * N_ITEMS, N_TOWER_ROWS, replace=False)
    frame = {"user": pair // N_ITEMS, "item": pair % N_ITEMS}
    rated = rng.permutation(np.where(np.arange(len(pair)) < N_LIKES, 4, 3))
    likes = ft.from_frame(pl.DataFrame(frame | {"rating": rated}))
    seconds, products = [], []
    for _ in range(5):
        model = ft.TwoTower(epochs=6)
        ft.fit(model, likes, progress=False)
        seconds.append(model.curve_[-1]["seconds"])
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            ft.fit(ft.TwoTower(epochs=6), likes, progress=False)
        events = profiler.key_averages()
        products.append(sum(e.self_cpu_time_total for e in events if e.key in PRODUCTS) / 1e6)
    total = float(np.median(seconds))
    return 6 * N_TOWER_ROWS / total, 1 - float(np.median(products)) / total


def main() -> None:
    dataset = ratings()
    once = {"epochs": 1, "refit": False}
    article = load_recipe("ml-1m-article-embedding-net").fields | once
    print(f"training, {N_ROWS:,} ratings, one epoch:")
    for label, fields in (("the article's network", article), ("embedding-net (ours)", once)):
        model = ft.EmbeddingModel(**fields)
        ft.fit(model, dataset, progress=False)
        print(f"  {label}: {model.curve_[0]['samples_per_second']:,.0f} samples/s")
    bare = N_ROWS / bare_epoch(dataset, 2000)
    print(f"  the article's network, bare loop: {bare:,.0f} samples/s")
    speed, outside = two_towers()
    label = f"two-tower, {N_TOWER_ROWS:,} ratings, {N_LIKES:,} of them likes"
    print(f"{label}: {speed:,.0f} ratings/s, {outside:.1%} outside products")


if __name__ == "__main__":
    main()
