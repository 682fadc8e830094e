"""Samples a second of one epoch, the article's network and ours, beside a bare torch loop."""

from __future__ import annotations

import time

import numpy as np
import polars as pl
import torch

import foretaste as ft
from foretaste.models.networks import EmbeddingNet
from foretaste.recipes import load_recipe

N_USERS, N_ITEMS, N_ROWS = 6_040, 3_706, 200_000


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


if __name__ == "__main__":
    main()
