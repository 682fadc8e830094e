"""Our ranking metrics against ranx's on random lists, where the definitions are the same."""

from __future__ import annotations

import numpy as np
import torch
from ranx import Qrels, Run, evaluate

from foretaste.data.histories import Histories
from foretaste.evaluation import metrics
from foretaste.recommending.ranking import Lists, top_k

USERS, ITEMS, K = 300, 200, 10
SAME = {"recall_all": "recall", "precision": "precision", "ndcg": "ndcg", "hit_rate": "hit_rate",
        "mrr": "mrr"}  # fmt: skip
TOLERANCE = 1e-6


def differences(seed: int = 0) -> dict[str, float]:
    """The largest difference of any user's value, by metric."""
    rng = np.random.default_rng(seed)
    score_ui = torch.from_numpy(rng.permuted(np.arange(USERS * ITEMS)).reshape(USERS, ITEMS) / 1e5)
    relevant = [
        np.sort(rng.choice(ITEMS, rng.integers(1, 40), replace=False)) for _ in range(USERS)
    ]
    pointer_b = torch.tensor([0, *np.cumsum([len(r) for r in relevant])])
    item_h = torch.from_numpy(np.concatenate(relevant))
    probe = Histories(pointer_b, item_h, torch.ones(len(item_h)), None, torch.arange(USERS))
    lists = Lists(*top_k(score_ui.float(), K), probe_h=score_ui.float()[probe.user_h, item_h])
    ranks = metrics.ranks(lists, probe, probe.length_b)
    qrels = Qrels({f"{u:05}": {str(i): 1 for i in items} for u, items in enumerate(relevant)})
    run = Run(
        {
            f"{u:05}": {str(int(i)): float(K - place) for place, i in enumerate(lists.item_bk[u])}
            for u in range(USERS)
        }
    )
    found = {}
    for ours, theirs in SAME.items():
        value_b = metrics.RANKING[ours](ranks, K).numpy()
        evaluate(qrels, run, f"{theirs}@{K}", return_mean=False)
        by_user = run.scores[f"{theirs}@{K}"]
        other_b = np.array([by_user[f"{u:05}"] for u in range(USERS)])
        found[ours] = float(np.abs(value_b - other_b).max())
    return found


def main() -> None:
    """Print a line for each metric; AssertionError where one differs."""
    for metric, gap in differences().items():
        assert gap <= TOLERANCE, f"{metric} differs from ranx by {gap}"
        print(f"{metric}@{K}: as ranx's to {gap:.0e} on {USERS} users")
