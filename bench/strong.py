"""ML-1M, strong generalisation: our recipes, `implicit`, plain NumPy EASE in one run, paired."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from torch import Tensor

import foretaste as ft
from foretaste.models.base import UserBatch
from foretaste.recipes import load_recipe

METRICS = ("recall@20", "ndcg@100")


@dataclass
class Peer:
    """Another library's model, served and measured as ours are."""

    name: str
    score: Callable[[UserBatch], Tensor]


def numpy_ease(X_ui, likes, l2: float) -> Peer:
    P_ij = np.linalg.inv((X_ui.T @ X_ui).toarray().astype(float) + l2 * np.eye(X_ui.shape[1]))
    B_ij = -P_ij / np.diag(P_ij)
    np.fill_diagonal(B_ij, 0)
    return Peer("NumPy EASE", lambda batch: torch.from_numpy((likes(batch) @ B_ij).astype("f4")))


def implicit_als(X_ui, likes) -> Peer:
    from implicit.als import AlternatingLeastSquares

    # the best of twenty, of 128 and 256 factors, on the split "strong-validation"
    peer = AlternatingLeastSquares(
        factors=256, iterations=10, alpha=10, regularization=75, random_state=0,
        num_threads=torch.get_num_threads(),
    )  # fmt: skip
    peer.fit(X_ui, show_progress=False)

    def score(batch: UserBatch) -> Tensor:
        user_bd = peer.recalculate_user(np.arange(len(batch)), likes(batch))
        return torch.from_numpy(np.asarray(user_bd) @ peer.item_factors.T)

    return Peer("implicit ALS", score)


def main() -> None:
    from threadpoolctl import threadpool_limits

    parts = ft.split(ft.load_data("ml-1m"), "strong")
    n_items = len(parts.train.items)
    seen = ft.EASE()
    X_ui = seen.learn_likes(parts.train)

    def likes(batch: UserBatch):
        return seen.likes(batch, n_items)

    print("ML-1M, strong generalisation, recall@20 and NDCG@100:")
    reports = {}
    for name in ("als", "ease", "item-knn"):
        fitted = ft.fit(
            load_recipe(f"ml-1m-strong-{name}").configured(), parts.train, progress=False
        )
        reports[name] = shown(fitted.model, parts, fitted.training["seconds"])
    with threadpool_limits(1, "blas"):
        started = time.perf_counter()
        peer = implicit_als(X_ui, likes)
        reports[peer.name] = shown(peer, parts, time.perf_counter() - started)
    started = time.perf_counter()
    peer = numpy_ease(X_ui, likes, l2=800)
    reports[peer.name] = shown(peer, parts, time.perf_counter() - started)
    print("differences, paired bootstrap over the same users; p corrected over all pairs (Holm):")
    pairs = ft.compare(reports, METRICS)
    for pair in pairs.filter(pl.col("a").is_in(["als", "ease"])).iter_rows(named=True):
        print(
            f"  {pair['metric']:9} {pair['a']} - {pair['b']}: {pair['difference']:+.4f} "
            f"({pair['low']:+.4f} to {pair['high']:+.4f}), p {pair['p_holm']:.2g}"
        )


def shown(model, parts: ft.Split, seconds: float) -> ft.Report:
    report = ft.evaluate(ft.Recommender(model, parts.train), parts, k=(20, 100), ratings=False)
    recall, ndcg = (report.metrics[name] for name in METRICS)
    print(
        f"  {model.name:12} {recall.value:.4f} ({recall.low:.4f} to {recall.high:.4f}), "
        f"{ndcg.value:.4f} ({ndcg.low:.4f} to {ndcg.high:.4f}), fitted in {seconds:.1f} s",
        flush=True,
    )
    return report


if __name__ == "__main__":
    main()
