"""Maximal marginal relevance, against its definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from foretaste.recommending.ranking import Lists
from foretaste.recommending.reranking import by_place, diversify


def pool(score_bp: torch.Tensor, item_bp: torch.Tensor) -> Lists:
    return Lists(item_bp, score_bp, torch.ones(len(item_bp)).long(), torch.empty(0))


def random_pool(users: int = 5, size: int = 12) -> tuple[Lists, torch.Tensor]:
    rng = torch.Generator().manual_seed(3)
    item_bp = torch.stack([torch.randperm(30, generator=rng)[:size] for _ in range(users)])
    score_bp = torch.rand(users, size, generator=rng).sort(dim=1, descending=True).values
    return pool(score_bp, item_bp), torch.randn(30, 4, generator=rng)


def by_definition(scores, items, vectors, k, diversity):
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    relevance = (scores - scores[-1]) / (scores[0] - scores[-1])
    chosen, left = [0], list(range(1, len(items)))
    while len(chosen) < k:
        worth = [
            (1 - diversity) * relevance[p]
            - diversity * max(unit[items[p]] @ unit[items[c]] for c in chosen)
            for p in left
        ]
        chosen.append(left.pop(int(np.argmax(worth))))
    return [int(items[p]) for p in chosen]


@pytest.mark.parametrize("diversity", [0.1, 0.5, 0.9, 1.0])
def test_every_place_goes_to_the_item_of_highest_marginal_relevance(diversity):
    lists, vectors = random_pool()
    found = diversify(lists, vectors, 6, diversity)
    for b in range(5):
        expected = by_definition(
            lists.score_bk[b].double().numpy(), lists.item_bk[b].numpy(),
            vectors.double().numpy(), 6, diversity,
        )  # fmt: skip
        assert found.item_bk[b].tolist() == expected
        at = [lists.item_bk[b].tolist().index(i) for i in expected]
        assert torch.equal(found.score_bk[b], lists.score_bk[b, at])


def test_without_diversity_the_list_stays_as_it_was():
    lists, vectors = random_pool()
    assert torch.equal(diversify(lists, vectors, 6, 0.0).item_bk, lists.item_bk[:, :6])


def test_a_user_with_too_few_candidates_keeps_them_all_and_empty_places_come_last():
    lists = pool(torch.tensor([[3.0, 2.0, -torch.inf, -torch.inf]]), torch.tensor([[7, 4, -1, -1]]))
    found = diversify(lists, torch.ones(8, 2), 4, 1.0)
    assert found.item_bk.tolist() == [[7, 4, -1, -1]]
    empty = pool(torch.full((1, 3), -torch.inf), torch.full((1, 3), -1))
    assert diversify(empty, torch.ones(8, 2), 3, 0.5).item_bk.tolist() == [[-1, -1, -1]]


def test_metrics_see_the_order_that_was_served():
    lists = pool(torch.tensor([[1.0, 3.0], [2.0, -torch.inf]]), torch.tensor([[5, 2], [1, -1]]))
    placed = by_place(lists, torch.tensor([0, 0, 1]), torch.tensor([2, 9, 1]))
    assert placed.score_bk.tolist() == [[2.0, 1.0], [2.0, -torch.inf]]
    assert placed.probe_h.tolist() == [1.0, -torch.inf, 2.0]
