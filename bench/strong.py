"""ML-1M, strong generalisation: our recipes beside `implicit` and a plain NumPy EASE, one run."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

import foretaste as ft
from foretaste.models.base import UserBatch
from foretaste.recipes import load_recipe


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

    # the best of twelve on validation users
    peer = AlternatingLeastSquares(
        factors=256, iterations=15, alpha=2, regularization=30, random_state=0,
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
    print("ML-1M, strong generalisation, recall@20 and NDCG@100:")
    seen = ft.EASE()
    X_ui = seen.learn_likes(parts.train)

    def likes(batch: UserBatch):
        return seen.likes(batch, n_items)

    with threadpool_limits(1, "blas"):
        started = time.perf_counter()
        peer = implicit_als(X_ui, likes)
        show(peer, parts, time.perf_counter() - started)
    started = time.perf_counter()
    peer = numpy_ease(X_ui, likes, l2=800)
    show(peer, parts, time.perf_counter() - started)
    for name in ("als", "ease", "item-knn"):
        fitted = ft.fit(
            load_recipe(f"ml-1m-strong-{name}").configured(), parts.train, progress=False
        )
        show(fitted.model, parts, fitted.training["seconds"])


def show(model, parts: ft.Split, seconds: float) -> None:
    found = ft.evaluate(
        ft.Recommender(model, parts.train), parts, k=(20, 100), ratings=False
    ).metrics
    recall, ndcg = found["recall@20"], found["ndcg@100"]
    print(
        f"  {model.name:12} {recall.value:.4f} ({recall.low:.4f} to {recall.high:.4f}), "
        f"{ndcg.value:.4f} ({ndcg.low:.4f} to {ndcg.high:.4f}), fitted in {seconds:.1f} s"
    )


if __name__ == "__main__":
    main()
