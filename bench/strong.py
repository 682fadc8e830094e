"""ML-1M, strong generalisation: our recipes, `implicit`, plain NumPy EASE in one run, paired."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
import torch
from torch import Tensor

import foretaste as ft
from foretaste.data.histories import Histories
from foretaste.evaluation.statistics import Tally, contrasts, intervals
from foretaste.experiments.recipes import load_recipe

METRICS = ("recall@20", "ndcg@100")
DRAWS = 5


@dataclass
class Peer:
    """Another library's model, served and measured as ours are."""

    name: str
    score: Callable[[Histories], Tensor]


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

    def score(batch: Histories) -> Tensor:
        user_bd = peer.recalculate_user(np.arange(len(batch)), likes(batch))
        return torch.from_numpy(np.asarray(user_bd) @ peer.item_factors.T)

    return Peer("implicit ALS", score)


def draws(parts: ft.Split) -> list[ft.Split]:
    """The split, and others of the same users whose hidden fifth is drawn anew."""
    frame = pl.concat([parts.history.frame(), parts.test.frame()])
    held = ft.from_frame(frame.select("user", "item"))
    found = [parts]
    for seed in range(1, DRAWS):
        order_r = np.random.default_rng(seed).random(len(held))
        place_r = np.lexsort((order_r, held.interactions.user_r)).argsort()
        place_r -= held.pointers[held.interactions.user_r]
        n_u = np.diff(held.pointers)
        hidden_r = place_r < np.maximum(1, n_u // 5)[held.interactions.user_r]
        history, test = held.take(~hidden_r), held.take(hidden_r)
        found.append(replace(parts, history=history, test=test))
    return found


def main() -> None:
    from threadpoolctl import threadpool_limits

    parts = ft.split(ft.load_dataset("ml-1m"), "strong")
    n_items, several = len(parts.train.items), draws(parts)
    seen = ft.EASE()
    X_ui = seen.learn_likes(parts.train)

    def likes(batch: Histories):
        return seen.likes(batch, n_items)

    print(
        f"ML-1M, strong generalisation, {METRICS}; then the mean of {DRAWS} draws of what to find:"
    )
    reports = {}
    for name in ("als", "ease", "item-knn"):
        fitted = ft.fit(
            load_recipe(f"ml-1m-strong-{name}").configured(), parts.train, progress=False
        )
        reports[name] = shown(fitted.model, several, fitted.training["seconds"])
    with threadpool_limits(1, "blas"):
        started = time.perf_counter()
        peer = implicit_als(X_ui, likes)
        reports[peer.name] = shown(peer, several, time.perf_counter() - started)
    started = time.perf_counter()
    peer = numpy_ease(X_ui, likes, l2=800)  # the best of five on validation users
    reports[peer.name] = shown(peer, several, time.perf_counter() - started)
    for draw, what in ((0, "the canonical draw"), (1, f"the mean of {DRAWS} draws")):
        print(f"differences, paired bootstrap over users, {what}; p after Holm:")
        pairs = contrasts({name: tallies[draw] for name, tallies in reports.items()}, METRICS)
        for pair in pairs.filter(pl.col("a").is_in(["als", "ease"])).iter_rows(named=True):
            print(
                f"  {pair['metric']:9} {pair['a']} - {pair['b']}: {pair['difference']:+.4f} "
                f"({pair['low']:+.4f} to {pair['high']:+.4f}), p {pair['p_holm']:.2g}"
            )


def shown(model, several: list[ft.Split], seconds: float) -> list[dict[str, Tally]]:
    """Print a line; returns the sums of each user, of the first draw and over all of them."""
    recommender = ft.Recommender(model, several[0].train)
    each = [ft.evaluate(recommender, p, k=(20, 100), ratings=False).tallies for p in several]
    summed = {
        name: Tally(
            np.sum([t[name].total_b for t in each], axis=0),
            np.sum([t[name].weight_b for t in each], axis=0),
        )
        for name in METRICS
    }
    columns = [
        f"{found[name].value:.4f} ({found[name].low:.4f} to {found[name].high:.4f})"
        for found in (intervals(each[0]), intervals(summed))
        for name in METRICS
    ]
    print(f"  {model.name:12} {', '.join(columns)}; fitted in {seconds:.1f} s", flush=True)
    return [dict(each[0]), summed]


if __name__ == "__main__":
    main()
