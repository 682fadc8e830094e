from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from foretaste import ranking
from foretaste.errors import ModelError
from foretaste.ranking import recommend, top_k
from tests.test_metrics import batch

SCORES = st.sampled_from([-1.0, 0.0, 2.0, float("-inf")])


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.lists(SCORES, min_size=7, max_size=7), min_size=1, max_size=4),
    st.integers(1, 7),
)
def test_equal_scores_are_listed_in_the_order_of_item_rows(rows, k):
    item_bk, score_bk, tied_b = top_k(torch.tensor(rows), k)
    for row, items, scores, tied in zip(rows, item_bk, score_bk, tied_b, strict=True):
        order = sorted(range(7), key=lambda i: (-row[i], i))[:k]
        assert items.tolist() == [i if row[i] > float("-inf") else -1 for i in order]
        assert scores.tolist() == [row[i] for i in order]
        if row[order[-1]] > float("-inf"):
            assert tied == row.count(row[order[-1]])


def test_lists_leave_out_seen_and_forbidden_items():
    score_bi = torch.tensor([[5.0, 4.0, 3.0, 2.0, 1.0]])
    allowed_i = torch.tensor([True, True, False, True, True])
    lists = recommend(lambda _: score_bi.clone(), batch([[0]]), 3, n_items=5, allowed_i=allowed_i)
    assert lists.item_bk.tolist() == [[1, 3, 4]]
    seen = recommend(lambda _: score_bi.clone(), batch([[0]]), 2, n_items=5, exclude_seen=False)
    assert seen.item_bk.tolist() == [[0, 1]]


def test_a_user_with_too_few_candidates_gets_a_shorter_list():
    lists = recommend(lambda _: torch.ones(1, 3), batch([[0, 2]]), 3, n_items=3)
    assert lists.item_bk.tolist() == [[1, -1, -1]]


def test_lists_do_not_depend_on_the_size_of_chunks(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    score_bi = torch.rand(23, 11, generator=generator).round(decimals=1)
    histories = batch([[u % 11] for u in range(23)])

    def score(users):
        return score_bi[users.item_h]

    whole = recommend(score, histories, 4, n_items=11, probe=histories)
    monkeypatch.setattr(ranking, "CHUNK_BYTES", 4 * 11 * 5)
    parts = recommend(score, histories, 4, n_items=11, probe=histories)
    assert torch.equal(whole.item_bk, parts.item_bk)
    assert torch.equal(whole.tied_b, parts.tied_b)


def test_a_score_that_is_not_a_number_is_an_error():
    one = torch.tensor([[9.0, 1.0, float("nan"), 2.0]])
    with pytest.raises(ModelError, match="the model scored NaN: no ranking can be made of it"):
        recommend(lambda _: one, batch([[]]), 1, n_items=4)
