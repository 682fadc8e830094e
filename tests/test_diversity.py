"""Maximal marginal relevance, against its definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from foretaste.recommending import reranking
from foretaste.recommending.ranking import Lists
from foretaste.recommending.reranking import by_place, diversify, pool_size


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


# -- against a greedy twin in plain Python, on vectors whose cosines are exact and tie often

COMPASS = [(1, 0), (0, 2), (-3, 0), (0, -1), (0, 0), (4, 0)]


@st.composite
def pools(draw):
    """Pools of up to 9 of 12 items, some of them short, and the items' vectors."""
    size = draw(st.integers(1, 9))
    vectors = draw(st.lists(st.sampled_from(COMPASS), min_size=12, max_size=12))
    users = []
    for _ in range(draw(st.integers(1, 4))):
        items = draw(st.permutations(range(12)))[: draw(st.integers(0, size))]
        whole = st.lists(st.integers(-3, 3), min_size=len(items), max_size=len(items))
        users.append((items, sorted(map(float, draw(whole)), reverse=True)))
    return users, vectors, size


def cosine(a, b):
    lengths = (a[0] ** 2 + a[1] ** 2) * (b[0] ** 2 + b[1] ** 2)
    return np.float32((a[0] * b[0] + a[1] * b[1]) / lengths**0.5 if lengths else 0)


def greedy(items, scores, vectors, k, diversity):
    """Every place to the highest marginal relevance; of equal ones, to the higher in the pool."""
    span = np.float32(scores[0] - scores[-1]) if items else 0
    left, listed = list(range(len(items))), []

    def worth(place):
        relevance = np.float32(scores[place] - scores[-1]) / span if span else np.float32(0)
        if not listed:
            return relevance
        nearest = max(cosine(vectors[items[place]], vectors[items[c]]) for c in listed)
        return np.float32(1 - diversity) * relevance - np.float32(diversity) * nearest

    while left and len(listed) < k:
        best = max(left, key=lambda place: (worth(place), -place))
        left.remove(best)
        listed.append(best)
    return [items[place] for place in listed], [scores[place] for place in listed]


@settings(max_examples=100, deadline=None)
@given(pools(), st.integers(1, 10), st.sampled_from([0.25, 0.5, 0.75, 1.0]), st.booleans())
def test_equal_marginal_relevance_goes_to_the_item_that_was_higher(drawn, k, diversity, chunked):
    users, vectors, size = drawn
    item_bp = torch.tensor([[*items, *[-1] * (size - len(items))] for items, _ in users])
    score_bp = torch.tensor([[*s, *[-torch.inf] * (size - len(s))] for _, s in users])
    with pytest.MonkeyPatch.context() as patch:
        if chunked:
            patch.setattr(reranking, "CHUNK_BYTES", 1)
        found = diversify(pool(score_bp, item_bp), torch.tensor(vectors), k, diversity)
    assert found.item_bk.shape == (len(users), min(k, size))
    for b, (items, scores) in enumerate(users):
        listed, kept = greedy(items, scores, vectors, k, diversity)
        empty = min(k, size) - len(listed)
        assert found.item_bk[b].tolist() == listed + [-1] * empty
        assert found.score_bk[b].tolist() == kept + [-torch.inf] * empty


@pytest.mark.parametrize(
    ("k", "n_items", "expected"),
    [(1, 5000, 100), (20, 5000, 100), (21, 5000, 105), (30, 5000, 150), (30, 120, 120), (3, 7, 7)],
)
def test_five_candidates_compete_for_a_place_and_a_hundred_at_least(k, n_items, expected):
    assert pool_size(k, n_items) == expected


@settings(max_examples=100, deadline=None)
@given(pools(), st.lists(st.tuples(st.integers(0, 3), st.integers(0, 11)), max_size=12))
def test_a_place_counts_down_from_the_length_of_the_list(drawn, probes):
    users, _, size = drawn
    probes = [(b % len(users), item) for b, item in probes]
    item_bk = torch.tensor([[*items, *[-1] * (size - len(items))] for items, _ in users])
    user_h, item_h = torch.tensor(probes, dtype=torch.int64).view(-1, 2).T
    placed = by_place(pool(torch.zeros(item_bk.shape), item_bk), user_h, item_h)
    for b, (items, _) in enumerate(users):
        places = [float(size - n) for n in range(len(items))]
        assert placed.score_bk[b].tolist() == places + [-torch.inf] * (size - len(items))
    assert placed.probe_h.tolist() == [
        float(size - users[b][0].index(item)) if item in users[b][0] else -torch.inf
        for b, item in probes
    ]
