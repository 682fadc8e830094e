from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from foretaste.errors import ModelError
from foretaste.recommending import ranking, retrieval
from foretaste.recommending.ranking import Lists, Scored, recommend
from foretaste.recommending.retrieval import top_k
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
    lists = recommend(
        Scored(lambda _: score_bi.clone()), batch([[0]]), 3, n_items=5, allowed_i=allowed_i
    )
    assert lists.item_bk.tolist() == [[1, 3, 4]]
    seen = recommend(
        Scored(lambda _: score_bi.clone()), batch([[0]]), 2, n_items=5, exclude_seen=False
    )
    assert seen.item_bk.tolist() == [[0, 1]]


def test_a_user_with_too_few_candidates_gets_a_shorter_list():
    lists = recommend(Scored(lambda _: torch.ones(1, 3)), batch([[0, 2]]), 3, n_items=3)
    assert lists.item_bk.tolist() == [[1, -1, -1]]


def test_lists_do_not_depend_on_the_size_of_chunks(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    score_bi = torch.rand(23, 11, generator=generator).round(decimals=1)
    histories = batch([[u % 11] for u in range(23)])
    sizes = []

    def score(users):
        sizes.append(len(users))
        return score_bi[users.item_h]

    whole = recommend(Scored(score), histories, 4, n_items=11, probe=histories)
    monkeypatch.setattr(ranking, "CHUNK_BYTES", 4 * 11 * 5)
    parts = recommend(Scored(score), histories, 4, n_items=11, probe=histories)
    assert sizes == [23, 5, 5, 5, 5, 3]
    assert torch.equal(whole.item_bk, parts.item_bk)
    assert torch.equal(whole.tied_b, parts.tied_b)


def test_a_score_that_is_not_a_number_is_an_error():
    one = torch.tensor([[9.0, 1.0, float("nan"), 2.0]])
    with pytest.raises(ModelError, match="the model scored NaN: no ranking can be made of it"):
        recommend(Scored(lambda _: one), batch([[]]), 1, n_items=4)


# -- models that score by dot products, which take another way to the same lists


@dataclass
class Dots:
    """A model of given vectors; users are told apart by their training row."""

    user_ud: torch.Tensor
    item_id: torch.Tensor

    def user_factors(self, users):
        return self.user_ud[users.train_row_b]

    def item_factors(self):
        return self.item_id

    def score(self, users):
        return self.user_factors(users) @ self.item_id.T


def known(histories):
    users = batch(histories)
    users.train_row_b[:] = torch.arange(len(users))
    return users


def same(a: Lists, b: Lists) -> bool:
    return all(x.equal(y) for x, y in zip(vars(a).values(), vars(b).values(), strict=True))


@st.composite
def dot_cases(draw):
    """Small whole vectors, whose products are exact and tie often, over several blocks of items."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    n_users, n_items = draw(st.integers(1, 6)), draw(st.integers(1, 300))
    low = draw(st.sampled_from([-3, -1, 0]))  # 0: no score is negative
    d, scale = draw(st.integers(1, 5)), draw(st.sampled_from([1.0, -1.0, 1024.0]))
    user_ud = torch.from_numpy(rng.integers(0, 4, (n_users, d))).float() * scale
    item_id = torch.from_numpy(rng.integers(low, 4, (n_items, d))).float()
    seen, asked = ([np.flatnonzero(rng.random(n_items) < share).tolist() for _ in range(n_users)]
                   for share in (draw(st.sampled_from([0.0, 0.3, 1.0])), 0.2))  # fmt: skip
    share = draw(st.sampled_from([None, 0.0, 0.01, 0.5]))
    allowed_i = None if share is None else torch.from_numpy(rng.random(n_items) < share)
    return Dots(user_ud, item_id), known(seen), known(asked), allowed_i, draw(st.integers(1, 70))


@pytest.mark.parametrize("coarse", [torch.bfloat16, torch.float32])
@settings(max_examples=200, deadline=None)
@given(dot_cases(), st.booleans())
def test_dot_products_give_the_lists_of_all_scores(coarse, case, exclude_seen):
    model, seen, asked, allowed_i, k = case
    options = {"n_items": len(model.item_id), "exclude_seen": exclude_seen}
    options |= {"allowed_i": allowed_i, "probe": asked}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retrieval, "COARSE", coarse)
        patch.setattr(retrieval, "WORTH_ROUNDING", 0)
        by_dot = recommend(model, seen, k, **options)
    assert same(by_dot, recommend(Scored(model.score), seen, k, **options))


@pytest.mark.parametrize("coarse", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize(("d", "shift"), [(7, 0.0), (64, 0.0), (64, -3.0), (300, 0.5)])
def test_dot_products_are_exact_to_the_last_bit(coarse, d, shift, monkeypatch):
    """Scores are float32 sums of each pair alone, and no better item is left out."""
    monkeypatch.setattr(retrieval, "COARSE", coarse)
    generator = torch.Generator().manual_seed(d)
    user_ud, item_id = (torch.randn(n, d, generator=generator) for n in (90, 2000))
    item_id[:, 0] = shift  # negative: hardly a score is positive
    user_ud[:, 0] = user_ud[:, 0].abs() * 10
    score_ui = torch.stack([(x_d * item_id).sum(dim=1) for x_d in user_ud])
    histories = known([[u, 2 * u] for u in range(90)])
    lists = recommend(Dots(user_ud, item_id), histories, 10, n_items=2000)
    exact = recommend(
        Scored(lambda users: score_ui[users.train_row_b]), histories, 10, n_items=2000
    )
    assert same(lists, exact)
    alone = [
        recommend(Dots(user_ud, item_id), histories[u : u + 1], 10, n_items=2000) for u in (0, 89)
    ]
    assert torch.cat([one.score_bk for one in alone]).equal(lists.score_bk[[0, 89]])


def test_lists_by_dot_products_do_not_depend_on_the_size_of_chunks(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    model = Dots(torch.randn(90, 8, generator=generator), torch.randn(500, 8, generator=generator))
    model.user_ud[5] = 0.0  # all items tie
    histories = known([[u] for u in range(90)])
    whole = recommend(model, histories, 4, n_items=500, probe=histories[:90])
    monkeypatch.setattr(retrieval, "CHUNK_USERS", 7)
    monkeypatch.setattr(ranking, "CHUNK_USERS", 20)
    assert same(whole, recommend(model, histories, 4, n_items=500, probe=histories[:90]))
    assert whole.item_bk[5].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("where", ["user_ud", "item_id"])
def test_a_vector_that_is_not_a_number_is_an_error(where):
    model = Dots(torch.ones(3, 2), torch.ones(9, 2))
    getattr(model, where)[1, 1] = float("nan")
    with pytest.raises(ModelError, match="the model scored NaN: no ranking can be made of it"):
        recommend(model, known([[], [], []]), 1, n_items=9)


def test_a_model_that_scores_by_dot_products_is_never_asked_for_all_scores(monkeypatch):
    model = Dots(torch.ones(3, 2), torch.arange(18.0).view(9, 2))
    expected = recommend(Scored(model.score), known([[8], [], [0]]), 2, n_items=9)
    monkeypatch.setattr(Dots, "score", None)
    assert same(recommend(model, known([[8], [], [0]]), 2, n_items=9), expected)
    some_i = torch.arange(9) < 8
    lists = recommend(model, known([[7], [], [0]]), 2, n_items=9, allowed_i=some_i)
    assert lists.item_bk.tolist() == [[6, 5], [7, 6], [7, 6]]
