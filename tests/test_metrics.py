"""Every metric against a brute-force twin: the mean over all orders of the tied items."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from foretaste.data.histories import Histories
from foretaste.evaluation import metrics
from foretaste.recommending.ranking import Scored, recommend


def batch(histories: list[list[int]]) -> Histories:
    flat = torch.tensor([i for history in histories for i in history], dtype=torch.int64)
    pointer = torch.tensor([0, *itertools.accumulate(map(len, histories))])
    return Histories(pointer, flat, torch.ones(len(flat)), None, torch.full((len(histories),), -1))


def every_order(scores: dict[int, float]) -> list[list[int]]:
    """All rankings that sort by score, each equally likely."""
    groups = [
        [i for i, s in scores.items() if s == score]
        for score in sorted(set(scores.values()), reverse=True)
    ]
    orders = itertools.product(*(itertools.permutations(group) for group in groups))
    return [[i for group in order for i in group] for order in orders]


def brute(name: str, order: list[int], relevant: set[int], n_relevant: int, k: int) -> float:
    hits = [item in relevant for item in order[:k]]
    if name == "recall":
        return sum(hits) / min(k, n_relevant)
    if name == "recall_all":
        return sum(hits) / n_relevant
    if name == "precision":
        return sum(hits) / k
    if name == "hit_rate":
        return float(any(hits))
    if name == "mrr":
        return next((1 / (place + 1) for place, hit in enumerate(hits) if hit), 0.0)
    ideal = sum(1 / math.log2(place + 2) for place in range(min(k, n_relevant)))
    return sum(hit / math.log2(place + 2) for place, hit in enumerate(hits)) / ideal


@st.composite
def cases(draw):
    n_items = draw(st.integers(2, 6))
    n_users = draw(st.integers(1, 3))
    score = st.sampled_from([0.0, 0.5, 1.0])  # few values: many ties
    rows = st.lists(score, min_size=n_items, max_size=n_items)
    scores = draw(st.lists(rows, min_size=n_users, max_size=n_users))
    parts = [draw(st.permutations(range(n_items))) for _ in range(n_users)]
    cuts = [(draw(st.integers(0, 2)), draw(st.integers(0, 3))) for _ in range(n_users)]
    seen = [part[:a] for part, (a, _) in zip(parts, cuts, strict=True)]
    relevant = [part[a : a + b] for part, (a, b) in zip(parts, cuts, strict=True)]
    unknown = [draw(st.integers(0, 2)) for _ in range(n_users)]
    return scores, seen, relevant, unknown, draw(st.integers(1, n_items + 1))


@settings(max_examples=300, deadline=None)
@given(cases())
@pytest.mark.parametrize("name", metrics.RANKING)
def test_a_ranking_metric_is_its_mean_over_all_orders_of_tied_items(name, case):
    scores, seen, relevant, unknown, k = case
    score_bi = torch.tensor(scores)
    probe = batch(relevant)
    relevant_b = torch.tensor([len(r) + u for r, u in zip(relevant, unknown, strict=True)])
    lists = recommend(
        Scored(lambda _: score_bi.clone()), batch(seen), k, n_items=score_bi.shape[1], probe=probe
    )
    found = metrics.RANKING[name](metrics.ranks(lists, probe, relevant_b), k)
    for user, row in enumerate(scores):
        if not relevant_b[user]:
            continue
        candidates = {i: s for i, s in enumerate(row) if i not in seen[user]}
        orders = every_order(candidates)
        expected = np.mean(
            [brute(name, o, set(relevant[user]), int(relevant_b[user]), k) for o in orders]
        )
        assert found[user].item() == pytest.approx(expected, abs=1e-9)


def test_a_constant_scorer_gets_what_a_random_one_gets():
    n_items, k = 50, 5
    probe = batch([[3, 7]])
    relevant_b = torch.tensor([2])
    nothing = torch.zeros(1, n_items)
    flat = recommend(Scored(lambda _: nothing), batch([[]]), k, n_items=n_items, probe=probe)
    constant = metrics.ndcg(metrics.ranks(flat, probe, relevant_b), k).item()
    generator = torch.Generator().manual_seed(1)
    drawn = []
    for _ in range(4000):
        random = torch.rand(1, n_items, generator=generator)
        model = Scored(lambda _, r=random: r)
        lists = recommend(model, batch([[]]), k, n_items=n_items, probe=probe)
        drawn.append(metrics.ndcg(metrics.ranks(lists, probe, relevant_b), k).item())
    assert constant == pytest.approx(
        np.mean(drawn), abs=4 * float(np.std(drawn)) / math.sqrt(len(drawn))
    )


def test_errors_are_summed_per_user():
    error_p, user_p = torch.tensor([1.0, -2.0, 0.5]), torch.tensor([0, 2, 2])
    assert metrics.squared_errors(error_p, user_p, 3).tolist() == [1.0, 0.0, 4.25]
    assert metrics.absolute_errors(error_p, user_p, 3).tolist() == [1.0, 0.0, 2.5]


def test_densities_and_coverage_are_summed_per_user_as_scipy_has_them():
    rng = np.random.default_rng(7)
    error_p, std_p = rng.normal(size=200), rng.gamma(4, 0.25, 200)
    user_p = rng.integers(0, 5, 200)
    error, std, user = (torch.from_numpy(column) for column in (error_p, std_p, user_p))
    density_b = metrics.log_densities(error, std, user, 6)
    covered_b = metrics.covered(error, std, user, 6)
    assert density_b[5] == covered_b[5] == 0  # a user without test ratings
    for b in range(5):
        logs = scipy.stats.norm.logpdf(error_p[user_p == b], scale=std_p[user_p == b])
        np.testing.assert_allclose(density_b[b], logs.sum())
        tail_p = 2 * scipy.stats.norm.sf(abs(error_p[user_p == b]) / std_p[user_p == b])
        assert covered_b[b] == (tail_p >= 0.1).sum()
