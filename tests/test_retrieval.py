"""The vector index: exact and approximate nearest items."""

import sys

import numpy as np
import pytest
import torch

import foretaste as ft
from foretaste.data.histories import Histories
from foretaste.errors import ModelError, UsageError
from foretaste.recommending import retrieval
from foretaste.recommending.ranking import recommend
from foretaste.recommending.retrieval import (
    DotProducts,
    ItemFactors,
    VectorIndex,
    _cut,
    _in_order,
    recall_of,
)


def clustered(n: int, d: int, seed: int = 0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    center_cd = rng.standard_normal((n // 100, d), dtype=np.float32)
    noise_nd = rng.standard_normal((n, d), dtype=np.float32)
    return torch.from_numpy(center_cd[rng.integers(0, n // 100, n)] + 0.5 * noise_nd)


@pytest.fixture(scope="module")
def vector_id() -> torch.Tensor:
    return clustered(3_000, 32)


def test_the_exact_index_lists_what_a_full_sort_of_cosines_lists(vector_id, monkeypatch):
    monkeypatch.setattr(retrieval, "CHUNK_BYTES", 7 * 4 * len(vector_id))  # seven queries a chunk
    item_bk, cosine_bk = VectorIndex(vector_id).nearest(3 * vector_id[:50], 10)
    V_id = vector_id.double().numpy()
    V_id /= np.linalg.norm(V_id, axis=1, keepdims=True)
    cosine_bi = V_id[:50] @ V_id.T
    order_bi = np.argsort(-cosine_bi, axis=1, kind="stable")[:, :10]
    np.testing.assert_array_equal(item_bk, order_bi)
    np.testing.assert_allclose(cosine_bk, np.take_along_axis(cosine_bi, order_bi, 1), atol=1e-6)


def test_the_graph_finds_95_of_100_nearest_items_and_the_exact_index_all(vector_id):
    query_bd = vector_id[::10]
    assert recall_of(VectorIndex(vector_id), query_bd, 10) == 1
    index = VectorIndex(vector_id, graph=True)
    assert recall_of(index, query_bd, 10) >= 0.95
    index.graph = VectorIndex(vector_id[:1500], graph=True).graph  # half of the items are missing
    assert recall_of(index, query_bd, 10) < 0.7


def test_graph_and_exact_index_agree_on_a_few_items_ties_and_zeros_included():
    vector_id = torch.tensor([[1.0, 0], [0, 2], [3, 0], [1, 1], [1, 0], [-1, 0], [0, 0]])
    graph = VectorIndex(vector_id, graph=True)
    for k in (7, 20):
        item_bk, cosine_bk = graph.nearest(vector_id, k)
        exact_bk, same_bk = VectorIndex(vector_id).nearest(vector_id, k)
        assert torch.equal(item_bk, exact_bk)
        torch.testing.assert_close(cosine_bk, same_bk)
    assert item_bk[0].tolist() == [0, 2, 4, 3, 1, 6, 5]


def test_what_a_graph_does_not_find_is_no_item():
    index = VectorIndex(torch.eye(4), graph=True)
    index.graph = VectorIndex(torch.eye(4)[:2], graph=True).graph
    item_bk, cosine_bk = index.nearest(torch.eye(4)[:1], 3)
    assert item_bk.tolist() == [[0, 1, -1]]
    assert cosine_bk.tolist() == [[1, 0, -torch.inf]]


def test_vectors_that_are_not_numbers_are_refused():
    with pytest.raises(ModelError, match="NaN"):
        VectorIndex(torch.tensor([[1.0, torch.nan]]))


def test_without_usearch_the_graph_names_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "usearch.index", None)
    with pytest.raises(UsageError) as caught:
        VectorIndex(torch.eye(2), graph=True)
    assert str(caught.value) == (
        "an approximate vector index needs usearch. pip install 'foretaste[vectors]'"
    )


def test_similar_uses_the_graph_where_asked_and_where_items_are_many(ratings, monkeypatch):
    fitted = ft.fit(ft.ALS(n_factors=4), ratings, progress=False)
    item = fitted.dataset.items.values[0]
    exact = fitted.similar(item, k=3)
    monkeypatch.setitem(sys.modules, "usearch.index", None)
    assert fitted.similar(item, k=3, approximate=True).equals(exact)  # few items: no graph
    monkeypatch.setattr(retrieval, "INDEXED_FROM", 1)
    assert fitted.similar(item, k=3).equals(exact)
    with pytest.raises(UsageError, match="foretaste\\[vectors\\]"):
        fitted.similar(item, k=3, approximate=True)
    monkeypatch.undo()
    monkeypatch.setattr(retrieval, "INDEXED_FROM", 1)
    near = fitted.similar(item, k=3, approximate=True)
    assert near["item"].equals(exact["item"])
    np.testing.assert_allclose(near["score"], exact["score"], atol=1e-6)


def test_one_list_neither_copies_nor_measures_the_items_again():
    item_id = torch.randn(1000, 8, generator=torch.Generator().manual_seed(0))
    factors = ItemFactors(item_id)
    first, second = (DotProducts(factors) for _ in range(2))
    assert first.coarse_cd is first.item_cd is item_id
    assert first.length is second.length
    assert DotProducts(factors, n_users=1000).coarse_cd is factors.rounded[0]


class Dots:
    def __init__(self, seed):
        draw = torch.Generator().manual_seed(seed)
        self.user, self.item = (torch.randn(n, 8, generator=draw) for n in (5, 999))

    def user_factors(self, histories):
        return self.user[: len(histories)]

    def item_factors(self):
        return self.item

    def score(self, histories):
        return self.user_factors(histories) @ self.item.T


def test_factors_kept_for_another_model_are_not_used():
    none = torch.zeros(0, dtype=torch.int64)
    pointer_b, row_b = torch.zeros(6, dtype=torch.int64), torch.full((5,), -1)
    nobody = Histories(pointer_b, none, torch.zeros(0), None, row_b)
    one, other = Dots(1), Dots(2)
    kept = ItemFactors(other.item_factors())
    lists = [recommend(one, nobody, 7, n_items=999, factors=f).item_bk for f in (None, kept)]
    own = recommend(one, nobody, 7, n_items=999, factors=ItemFactors(one.item)).item_bk
    assert torch.equal(lists[0], lists[1])
    assert torch.equal(lists[0], own)
    assert torch.equal(own, one.score(nobody).topk(7).indices)


@pytest.mark.parametrize("coarse", [torch.bfloat16, torch.float32])
def test_no_coarse_score_that_one_of_the_best_can_have_is_below_the_cut(coarse):
    """And hardly more pass: a cut lies a few representable numbers below the bound, not more."""
    draw = torch.Generator().manual_seed(0)
    kth_b = (10 * torch.randn(4000, generator=draw)).to(coarse)
    bound_b = torch.rand(4000, generator=draw) * torch.tensor([0.0, 0.1]).repeat(2000)
    unit = torch.finfo(coarse).eps / 2
    rounded_b = unit * kth_b.double().abs() if coarse == torch.bfloat16 else 0.0
    low_b = kth_b.double() - rounded_b - 2 * bound_b.double()
    cut_b = _cut(kth_b, bound_b).long()

    def key(score_b: torch.Tensor) -> torch.Tensor:
        bits = torch.int16 if coarse == torch.bfloat16 else torch.int32
        return _in_order(score_b.to(coarse).view(bits)).long()

    for above in (0.0, 1e-7, 1e-2):
        assert (key(low_b + above * low_b.abs()) >= cut_b).all()
    large_b = low_b.abs() > kth_b.double().abs() / 2  # where nothing cancels
    assert (key(low_b) - cut_b)[large_b].max() <= 8
