"""Reasons, against their definition, for every model."""

from __future__ import annotations

import pytest
import torch

import foretaste as ft
from foretaste.data.histories import Histories
from foretaste.models import MODELS
from foretaste.recommending.explaining import place, reasons
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
