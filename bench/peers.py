"""ALS beside `implicit`: time to the same recall, and users a second; Gowalla, 128 factors.

Both fold nothing away: ours solves each user's factors from the history again for every list, and
counts that; `implicit` keeps them from training.
"""

from __future__ import annotations

import time

import numpy as np
import torch

import foretaste as ft
from foretaste.data.histories import histories_of
from foretaste.errors import ForetasteError
from foretaste.experiments.recipes import load_recipe
from foretaste.recommending.ranking import recommend

ROUNDS = 3


def recall_all(item_bk: np.ndarray, parts: ft.Split) -> float:
    """Of lists for every user of train, over the test's users."""
    x = parts.test.interactions
    user_r = parts.train.users.find(parts.test.users.values)[x.user_r]
    item_r = parts.train.items.find(parts.test.items.values)[x.item_r]
    found_r = (item_bk[user_r] == item_r[:, None]).any(axis=1) & (item_r >= 0)
    n_u = np.bincount(user_r, minlength=len(item_bk))
    return float(
        (np.bincount(user_r, found_r, minlength=len(item_bk)) / n_u.clip(min=1))[n_u > 0].mean()
    )


def main() -> None:
    from implicit.als import AlternatingLeastSquares
    from threadpoolctl import threadpool_limits

    try:
        parts = ft.split(ft.load_dataset("gowalla-lightgcn"), "lightgcn")
    except ForetasteError as error:
        print(f"ALS beside implicit: left out, {error.what}")
        return
    threads, n_users, n_items = (
        torch.get_num_threads(),
        len(parts.train.users),
        len(parts.train.items),
    )
    everyone = histories_of(parts.train, np.arange(n_users), parts.train)
    model = load_recipe("gowalla-lightgcn-als").configured()
    X_ui = model.learn_likes(parts.train)  # type: ignore[attr-defined]
    X_ui.sort_indices()
    # the best of eight pairs on validation data; its authors advise one BLAS thread
    peer = AlternatingLeastSquares(
        factors=128, iterations=15, alpha=40, regularization=10, random_state=0, num_threads=threads
    )
    started = time.perf_counter()
    with threadpool_limits(1, "blas"):
        peer.fit(X_ui, show_progress=False)
    peer_seconds = time.perf_counter() - started
    fitted = ft.fit(model, parts.train, progress=False)
    seconds = fitted.training["seconds"]
    rows = np.arange(n_users)
    peer_recall = recall_all(peer.recommend(rows, X_ui, N=20)[0], parts)
    recall = recall_all(recommend(model, everyone, 20, n_items=n_items).item_bk.numpy(), parts)
    print("ALS beside implicit, Gowalla, 128 factors:")
    print(
        f"  recall_all@20 {recall:.4f} in {seconds:.1f} s; implicit {peer_recall:.4f} in "
        f"{peer_seconds:.1f} s (15 iterations): ours takes {seconds / peer_seconds:.2f} of its time"
    )
    ours, theirs = [], []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        with threadpool_limits(1, "blas"):
            peer.recommend(rows, X_ui, N=10)
        between = time.perf_counter()
        recommend(model, everyone, 10, n_items=n_items)
        theirs.append(n_users / (between - started))
        ours.append(n_users / (time.perf_counter() - between))
    ratios = sorted(a / b for a, b in zip(ours, theirs, strict=True))
    print(
        f"  top 10: {max(ours):,.0f} users/s, implicit {max(theirs):,.0f}; "
        f"ratio {ratios[ROUNDS // 2]:.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
    )


if __name__ == "__main__":
    main()
