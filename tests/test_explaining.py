"""Reasons, against their definition, for every model."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import foretaste as ft
from foretaste.data.histories import Histories
from foretaste.models import MODELS
from foretaste.recommending.explaining import place, reasons, shares
from tests.conftest import synthetic
from tests.test_models_contract import films, small


def history(items: list[int], values: list[float]) -> Histories:
    n = len(items)
    return Histories(
        torch.tensor([0, n]), torch.tensor(items), torch.tensor(values),
        torch.arange(n) * 86_400_000, torch.tensor([-1]),
    )  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_a_reason_is_what_the_score_loses_without_the_interaction(name):
    ratings = synthetic().with_items(films(40))
    model = ft.fit(small(name), ratings, progress=False).model
    items, values = [3, 1, 7], [5.0, 2.0, 4.0]
    whole = history(items, values)
    asked_k = torch.tensor([0, 5])
    found = reasons(model.score, whole, asked_k, len(ratings.items))
    full_k = model.score(whole)[0, asked_k]
    for left in range(3):
        rest = [h for h in range(3) if h != left]
        batch = Histories(
            torch.tensor([0, 2]), whole.item_h[rest], whole.value_h[rest],
            None if whole.time_h is None else whole.time_h[rest], torch.tensor([-1]),
        )  # fmt: skip
        expected_k = full_k - model.score(batch)[0, asked_k]
        torch.testing.assert_close(found[left], expected_k, rtol=1e-3, atol=1e-4)


def test_the_reasons_of_ease_add_up_to_the_score():
    ratings = synthetic()
    model = ft.fit(ft.EASE(l2=5.0), ratings, progress=False).model
    whole = history([3, 1, 7], [5.0, 5.0, 5.0])
    asked_k = torch.tensor([0, 5])
    found = reasons(model.score, whole, asked_k, len(ratings.items))
    torch.testing.assert_close(found.sum(0), model.score(whole)[0, asked_k])


def test_without_history_there_are_no_reasons():
    found = reasons(lambda b: torch.zeros(len(b), 9), history([], []), torch.tensor([1]), 9)
    assert found.shape == (0, 1)


def test_a_long_history_is_explained_in_chunks(monkeypatch):
    sizes = []

    def score(batch: Histories) -> torch.Tensor:
        sizes.append(len(batch))
        return batch.dense(9, batch.value_h).cumsum(1)

    whole, asked_k = history([3, 1, 7, 2, 0], [5.0, 2.0, 4.0, 1.0, 3.0]), torch.tensor([4, 8])
    expected = reasons(score, whole, asked_k, 9)
    sizes.clear()
    monkeypatch.setattr("foretaste.recommending.explaining.CHUNK_BYTES", 4 * 9 * 2)
    assert torch.equal(reasons(score, whole, asked_k, 9), expected)
    assert sizes == [1, 2, 2, 1]


def test_a_place_counts_better_items_and_half_of_the_equal_ones():
    score_i, nothing = torch.tensor([0.5, 0.9, 0.5, 0.1, 0.5]), torch.empty(0, dtype=torch.int64)
    found = place(score_i, 0, nothing)
    assert (found.rank, found.candidates) == (3.0, 5)
    assert found.why == "It is number 3 of 5 candidates."
    assert place(score_i, 0, torch.tensor([1, 3])).rank == 2.0
    filtered = place(score_i, 0, nothing, torch.tensor([True, False, True, True, False]))
    assert (filtered.rank, filtered.candidates) == (1.5, 3)


def test_an_item_that_is_no_candidate_says_why():
    score_i = torch.tensor([0.5, 0.9, 0.7])
    seen = place(score_i, 1, torch.tensor([1]))
    assert seen.rank is None
    assert seen.why == "It is in the history: lists leave out what was seen."
    filtered = place(score_i, 1, torch.tensor([0]), torch.tensor([True, False, True]))
    assert (filtered.why, filtered.candidates) == ("The filter leaves it out.", 1)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 4), st.data())
def test_shares_sum_to_one_where_anything_speaks_for_an_item(n_items, data):
    row = st.lists(st.integers(-3, 3), min_size=n_items, max_size=n_items)
    weights = data.draw(st.lists(row, min_size=1, max_size=5))
    share_hk = shares(torch.tensor(weights, dtype=torch.float32))
    for k in range(n_items):
        speaking_for = sum(max(weight_k[k], 0) for weight_k in weights)
        expected = [max(weight_k[k], 0) / max(speaking_for, 1) for weight_k in weights]
        assert share_hk[:, k].tolist() == pytest.approx(expected)
        assert float(share_hk[:, k].sum()) == pytest.approx(1.0 if speaking_for else 0.0)


def test_shares_of_weights_near_nothing_are_shares_all_the_same():
    assert shares(torch.tensor([[3e-30], [1e-30], [-5.0]])).flatten().tolist() == pytest.approx(
        [0.75, 0.25, 0.0]
    )


def test_an_explanation_lists_the_strongest_first_with_shares_of_what_speaks_for_the_item():
    fitted = ft.fit(ft.EASE(l2=5.0), synthetic(), progress=False)
    table = fitted.explain(item="i3", history={"i1": 5.0, "i2": 4.0, "i7": 5.0, "i9": 4.0})
    assert set(table["item"]) == {"i1", "i2", "i7", "i9"}
    assert table["weight"].is_sorted(descending=True)
    speaking_for = table["weight"].clip(lower_bound=0)
    assert 0 < (speaking_for > 0).sum() < 4  # some speak for it, some against
    assert table["share"].to_list() == pytest.approx((speaking_for / speaking_for.sum()).to_list())


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(-2, 2), min_size=1, max_size=9), st.data())
def test_a_place_is_the_mean_of_the_ranks_that_sorting_gives_to_equal_scores(scores, data):
    rows = st.integers(0, len(scores) - 1)
    item, seen = data.draw(rows), sorted(data.draw(st.sets(rows)))
    allowed = data.draw(st.one_of(st.none(), st.sets(rows)))
    allowed_i = (
        None if allowed is None else torch.tensor([i in allowed for i in range(len(scores))])
    )
    found = place(
        torch.tensor(scores, dtype=torch.float32), item, torch.tensor(seen, dtype=torch.int64),
        allowed_i,
    )  # fmt: skip
    candidates = [
        i for i in range(len(scores)) if i not in seen and (allowed is None or i in allowed)
    ]
    assert (found.score, found.candidates) == (scores[item], len(candidates))
    if item in candidates:
        ranked = sorted((scores[i] for i in candidates), reverse=True)
        ranks = [n for n, score in enumerate(ranked, 1) if score == scores[item]]
        assert found.rank == sum(ranks) / len(ranks)
        assert found.why == f"It is number {found.rank:g} of {len(candidates)} candidates."
    else:
        assert found.rank is None
        assert found.why == (
            "It is in the history: lists leave out what was seen."
            if item in seen
            else "The filter leaves it out."
        )
    assert allowed_i is None or allowed_i.tolist() == [
        i in (allowed or ()) for i in range(len(scores))
    ]
