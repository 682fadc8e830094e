"""Batches of several processes: together they are those of one, whatever serves them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import sparse
from torch import Tensor

from foretaste.models.item2vec import SkipGrams
from foretaste.models.two_tower import Masked, interleaved
from foretaste.training.batches import Batches, ShuffledBatches
from foretaste.training.engine import Engine


def masked() -> Masked:
    """Twenty users who like and dislike some of thirty items, in five batches."""
    rng = np.random.default_rng(0)
    likes_ui, dislikes_ui = (
        sparse.csr_matrix(rng.random((20, 30)) < 0.3, dtype=np.float32) for _ in range(2)
    )
    return Masked(torch.arange(20), 4, Engine(seed=2), interleaved(likes_ui, dislikes_ui), 5)


def skip_grams() -> SkipGrams:
    """Two hundred likes of nine users, in seven batches."""
    rng = np.random.default_rng(0)
    item_r = torch.from_numpy(rng.integers(0, 50, 200))
    user_r = torch.from_numpy(np.sort(rng.integers(0, 9, 200)))
    return SkipGrams(item_r, user_r, 30, Engine(seed=1), 2, torch.full((50,), 0.9), torch.ones(50))


def shuffled() -> ShuffledBatches:
    """Thirty-one samples of two columns, in eight batches."""
    return ShuffledBatches((torch.arange(31), torch.arange(31) * 10.0), 4, Engine(seed=1))


KINDS = {"shuffled": shuffled, "masked": masked, "skip-grams": skip_grams}


def plain(batch: tuple) -> list:
    """Every number of a batch, so that two batches can be compared."""
    return [
        part.tolist()
        if isinstance(part, Tensor | np.ndarray)
        else (part.data.tolist(), part.indices.tolist(), part.indptr.tolist(), part.shape)
        for part in batch
    ]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("world", [1, 2, 3, 10])
@pytest.mark.parametrize("start", [0, 1, 4])
def test_the_batches_of_all_processes_together_are_those_of_one(kind, world, start):
    batches: Batches = KINDS[kind]()
    alone = [plain(batch) for batch in batches.epoch(3)]
    assert len(alone) == batches.per_epoch
    shares = [map(plain, batches.epoch(3, start, rank, world)) for rank in range(world)]
    together = {}
    for rank, share in enumerate(shares):
        mine = [b for b in range(start, len(alone)) if b % world == rank]
        together |= dict(zip(mine, share, strict=True))  # batch b goes to rank b % world
    assert [together[b] for b in sorted(together)] == alone[start:]
