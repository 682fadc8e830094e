"""SASRec: its fast steps against the plain way, its windows, and what order teaches it."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch

import foretaste as ft
from foretaste.models.sequential.attention import CausalAttention, SoftmaxLoss, by_distance
from foretaste.models.sequential.sasrec import SASRec
from foretaste.models.sequential.transformer import GAP_BUCKETS, gap_buckets
from foretaste.models.sequential.windows import Windows
from foretaste.training.engine import Engine


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()


def test_attention_and_its_gradient_are_those_of_the_plain_way():
    q, k, v, bias = (
        drawn(2, 3, 6, 4),
        drawn(2, 3, 6, 4, seed=1),
        drawn(2, 3, 6, 4, seed=2),
        drawn(3, 4),
    )
    plain = torch.softmax(q @ k.transpose(2, 3) / 2 + by_distance(bias, 6), dim=3) @ v
    fast = CausalAttention.apply(q, k, v, bias)
    torch.testing.assert_close(fast, plain)
    weight = torch.randn(plain.shape, generator=torch.Generator().manual_seed(5)).double()
    wanted = torch.autograd.grad((plain * weight).sum(), (q, k, v, bias))
    found = torch.autograd.grad((fast * weight).sum(), (q, k, v, bias))
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other)


def test_no_position_sees_a_later_one():
    q, k, v, bias = (
        drawn(1, 1, 5, 2),
        drawn(1, 1, 5, 2, seed=1),
        drawn(1, 1, 5, 2, seed=2),
        drawn(1, 5),
    )
    before = CausalAttention.apply(q, k, v, bias)
    changed = v.detach().clone()
    changed[:, :, 3:] += 1
    after = CausalAttention.apply(q, k, changed, bias)
    assert torch.equal(before[:, :, :3], after[:, :, :3])


@pytest.mark.parametrize("shifted", [False, True])
def test_the_loss_and_its_gradient_are_those_of_cross_entropy(shifted, monkeypatch):
    from foretaste.models.sequential import attention

    monkeypatch.setattr(attention, "CHUNK_TARGETS", 4)
    x, W = drawn(10, 3), drawn(7, 3)
    shift = drawn(7).detach() if shifted else None
    target = torch.arange(10) % 7
    logits = x @ W.T if shift is None else x @ W.T - shift
    plain = torch.nn.functional.cross_entropy(logits, target)
    fast = SoftmaxLoss.apply(x, W, target, shift)
    torch.testing.assert_close(fast, plain)
    for one, other in zip(
        torch.autograd.grad(fast, (x, W)), torch.autograd.grad(plain, (x, W)), strict=True
    ):
        torch.testing.assert_close(one, other)


def windows(lengths, length=5, size=12, seed=0) -> Windows:
    pointers = np.append(0, np.cumsum(lengths))
    entries = int(pointers[-1])
    return Windows(
        np.arange(entries), np.zeros(entries, np.int64), pointers, entries, length, size,
        Engine(device="cpu", seed=seed),
    )  # fmt: skip


@pytest.mark.parametrize("lengths", [[1], [5], [6], [3, 17, 1, 9], [40, 2, 2, 11]])
def test_every_entry_is_a_target_once_and_follows_what_stands_before_it(lengths):
    batches = windows(lengths)
    for epoch in range(3):
        seen = []
        for target_t, place_t, item_bl, _ in batches.epoch(epoch):
            before_t = item_bl.flatten()[place_t]
            first_t = torch.isin(target_t, torch.from_numpy(batches.pointers))
            assert (before_t[first_t] == batches.n_items).all()
            assert (before_t[~first_t] == target_t[~first_t] - 1).all()
            assert item_bl.shape[1] <= 5
            seen.append(target_t)
        assert torch.cat(seen).sort().values.tolist() == list(range(batches.n_samples))


def test_an_epoch_is_the_same_whenever_it_is_asked_for_and_another_is_not():
    one, again, other = (
        [t.tolist() for t, *_ in windows([30, 30, 4]).epoch(number)] for number in (2, 2, 3)
    )
    assert one == again
    assert one != other
    late = [t.tolist() for t, *_ in windows([30, 30, 4]).epoch(2, start=3)]
    assert late == one[3:]


def test_gaps_have_buckets_by_their_logarithm():
    time = torch.tensor([0, 0, 500, 2_000, 60_000, 10**12, 10**12])
    first = torch.tensor([True, False, False, False, False, False, True])
    bucket = gap_buckets(time, first).tolist()
    assert bucket[0] == bucket[-1] == 0
    assert bucket[1] == bucket[2] == 1  # within a second
    assert bucket[2] < bucket[3] < bucket[4] < bucket[5] <= GAP_BUCKETS - 1
    assert gap_buckets(None, first).tolist() == [0] * 7


def cycles(users: int = 80, seed: int = 0) -> ft.Dataset:
    """After item n comes item n + 1, nine times in ten."""
    rng = np.random.default_rng(seed)
    user, item = [], []
    for u in range(users):
        at = int(rng.integers(0, 12))
        for _ in range(int(rng.integers(3, 12))):
            user.append(f"u{u}")
            item.append(f"i{at:02}")
            at = (at + 1) % 12 if rng.random() < 0.9 else int(rng.integers(0, 12))
    return ft.from_frame(pl.DataFrame({"user": user, "item": item}), duplicates="keep")


SMALL = {"n_factors": 16, "n_blocks": 1, "epochs": 30, "batch_size": 64, "dropout": 0.0}


@pytest.fixture(scope="module")
def fitted():
    return ft.fit(SASRec(**SMALL), cycles(), seed=1, progress=False)


def test_the_item_that_follows_is_first_and_order_counts(fitted):
    first = [
        fitted.recommend(history=[f"i{n:02}", f"i{n + 1:02}"], k=1)["item"].item()
        for n in range(10)
    ]
    assert first == [f"i{n + 2:02}" for n in range(10)]
    assert fitted.recommend(history=["i03", "i02"], k=1, exclude_seen=False)["item"].item() == "i03"


def test_scores_of_a_history_do_not_depend_on_who_shares_the_batch(fitted):
    histories = [np.arange(n) % 12 for n in (0, 1, 5, 9, 300)]
    batch = ft.Histories.concat([ft.Histories.of_one(h, np.ones(len(h))) for h in histories])
    together = fitted.model.score(batch)
    for b in range(len(histories)):
        torch.testing.assert_close(
            fitted.model.score(batch[b : b + 1])[0], together[b], atol=1e-4, rtol=1e-4
        )


def test_a_killed_run_goes_on_to_the_same_bit(tmp_path, monkeypatch):
    data, model = cycles(40), SASRec(**SMALL | {"epochs": 3, "dropout": 0.3})
    whole = ft.fit(model, data, seed=2, progress=False)

    class Killed(Exception):
        pass

    engine = Engine(device="cpu", seed=2, folder=tmp_path, save_every=0.0)
    calls = 0
    original = SoftmaxLoss.forward

    def forward(ctx, *arguments):
        nonlocal calls
        calls += 1
        if calls == 5:
            raise Killed
        return original(ctx, *arguments)

    monkeypatch.setattr(SoftmaxLoss, "forward", staticmethod(forward))
    with pytest.raises(Killed):
        ft.fit(model, data, engine=engine)
    monkeypatch.undo()
    resumed = ft.fit(model, data, engine=engine)
    for name, tensor in whole.model.state()[0].items():
        assert torch.equal(tensor, resumed.model.state()[0][name]), name
