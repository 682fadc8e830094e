"""Users a second: `ranking.recommend` beside a matrix product and torch.topk, of the same shapes.

Ours also leaves out seen items, breaks ties by item row, refuses NaN and bounds its memory.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from foretaste.data.histories import Histories
from foretaste.recommending.ranking import recommend

SHAPES = [(6_040, 3_706, 64), (20_000, 40_981, 64)]  # ML-1M and Gowalla's catalogues
SEEN, K = 100, 10


def histories(n_users: int, n_items: int) -> Histories:
    generator = torch.Generator().manual_seed(0)
    item_h = torch.randint(n_items, (n_users * SEEN,), generator=generator)
    pointer_b = torch.arange(0, n_users * SEEN + 1, SEEN)
    return Histories(pointer_b, item_h, torch.ones(len(item_h)), None, torch.arange(n_users))


def plain(user_ud: torch.Tensor, item_id: torch.Tensor, chunk: int) -> None:
    for part in user_ud.split(chunk):
        torch.topk(part @ item_id.T, K)


@dataclass
class Dots:
    """A model of random vectors."""

    user_ud: torch.Tensor
    item_id: torch.Tensor

    def user_factors(self, batch: Histories) -> torch.Tensor:
        return self.user_ud[batch.train_row_b]

    def item_factors(self) -> torch.Tensor:
        return self.item_id

    def score(self, batch: Histories) -> torch.Tensor:
        return self.user_factors(batch) @ self.item_id.T


def main() -> None:
    generator = torch.Generator().manual_seed(1)
    print(f"recommending, top {K}:")
    for n_users, n_items, d in SHAPES:
        user_ud = torch.randn(n_users, d, generator=generator)
        item_id = torch.randn(n_items, d, generator=generator)
        batch = histories(n_users, n_items)
        ratios, rates = [], []
        for _ in range(5):
            started = time.perf_counter()
            plain(user_ud, item_id, 1024)
            between = time.perf_counter()
            recommend(Dots(user_ud, item_id), batch, K, n_items=n_items)
            ended = time.perf_counter()
            ratios.append((ended - between) / (between - started))
            rates.append((n_users / (ended - between), n_users / (between - started)))
        ours, theirs = (sorted(column)[2] for column in zip(*rates, strict=True))
        print(
            f"  {n_users:,} users x {n_items:,} items, {d} factors: {ours:,.0f} users/s, "
            f"plain matmul + topk {theirs:,.0f}; ours takes {sorted(ratios)[2]:.2f} times as long"
        )


if __name__ == "__main__":
    main()
