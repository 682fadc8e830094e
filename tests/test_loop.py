"""The loop and its parts: early stopping, schedules, batches, dropout, losses, precision."""

from __future__ import annotations

import io
import json
from collections.abc import Callable

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import nn

from foretaste.errors import ModelError
from foretaste.training.batches import ShuffledBatches
from foretaste.training.engine import Engine, Meter
from foretaste.training.loop import (
    Dropout,
    Loop,
    cosine_restarts,
    one_cycle,
    seed_dropout,
)
from foretaste.training.losses import root_mean_square, squared_error
from tests.processes import small_model


class Counter(nn.Module):
    """One weight; the loss -w moves it up by the learning rate at every step."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(()))


def count(
    validations: list[float] | None, patience: int = 10, epochs: int = 6,
    rate: Callable[[int], float] = lambda step: 1.0, engine: Engine | None = None,
) -> tuple[float, list[dict[str, float]]]:  # fmt: skip
    """Weight and curve of a Counter trained at 2 steps an epoch with scripted validation errors."""
    network, engine = Counter(), engine or Engine()
    script = iter(validations or [])
    loop = Loop(
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), lr=1.0),
        batches=ShuffledBatches((torch.ones(3),), 2, engine),
        loss=lambda one_b: -network.w * one_b.mean(),
        validate=None if validations is None else lambda: next(script),
        rate=rate, epochs=epochs, patience=patience, engine=engine, identity="count",
    )  # fmt: skip
    state = loop.run()
    assert not network.training
    return float(network.w.detach()), state.curve


def test_the_weights_of_the_best_epoch_are_kept():
    weight, curve = count([3.0, 1.0, 2.0, 1.0, 1.5, 9.0])
    assert weight == 4.0  # two steps in each of the first two epochs; a tie is no improvement
    assert [line["validation"] for line in curve] == [3.0, 1.0, 2.0, 1.0, 1.5, 9.0]


def test_training_stops_after_patience_epochs_without_improvement():
    weight, curve = count([3.0, 1.0, 2.0, 2.0, 0.5, 0.1], patience=2)
    assert weight == 4.0
    assert len(curve) == 4


def test_without_validation_the_last_epoch_is_kept():
    weight, curve = count(None, patience=1)
    assert weight == 12.0
    assert [line["validation"] for line in curve] == [None] * 6


def test_the_learning_rate_follows_its_schedule_step_by_step():
    weight, curve = count(None, epochs=2, rate=lambda step: [1.0, 10.0, 100.0, 1000.0][step])
    assert weight == 1111.0
    assert [line["learning_rate"] for line in curve] == [10.0, 1000.0]


def test_the_train_loss_of_an_epoch_is_the_mean_over_its_samples():
    # w is 0, then 1 (two samples, then one): -(0 + 0 + 1) / 3
    assert count(None, epochs=1)[1][0]["train_loss"] == pytest.approx(-1 / 3)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_run_that_diverges_says_so(value, tmp_path):
    with pytest.raises(ModelError) as caught:
        count([1.0, value], engine=Engine(folder=tmp_path))
    assert str(caught.value) == (
        "training diverged in epoch 2: the error is not a finite number. "
        "Lower the learning rate, and start again with --fresh."
    )


def test_the_log_has_a_line_for_each_epoch(tmp_path):
    count([2.0, 1.0], epochs=2, engine=Engine(folder=tmp_path))
    lines = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    assert [(line["epoch"], line["validation"]) for line in lines] == [(1, 2.0), (2, 1.0)]
    assert all(line["seconds"] > 0 and line["samples_per_second"] > 0 for line in lines)
    with safe_open(tmp_path / "train.checkpoint", framework="pt") as file:
        assert sorted(file.keys()) == ["best.w", "weights.w"]


# -- schedules, batches, dropout, losses, precision


def test_learning_rate_schedules_have_their_known_values():
    restarts = [cosine_restarts(step, 4) for step in range(9)]
    slope = 0.45 * 2**-0.5
    period = [1.0, 0.55 + slope, 0.55, 0.55 - slope]
    np.testing.assert_allclose(restarts, [*period, *period, 1.0])
    cycle = [one_cycle(step, 8, warm_up=0.25) for step in range(9)]
    fall = [0.505 + 0.495 * np.cos(np.pi * n / 6) for n in range(7)]
    np.testing.assert_allclose(cycle, [0.5, 1.0, *fall])
    assert cycle[-1] == pytest.approx(0.01)
    assert min(one_cycle(step, 1000) for step in range(1001)) >= 0.01 - 1e-12


@pytest.mark.parametrize(("n", "size"), [(10, 3), (9, 3), (1, 5), (7, 1)])
def test_batches_serve_every_sample_once_in_each_epoch(n, size):
    batches = ShuffledBatches((torch.arange(n), torch.arange(n) * 10.0), size, Engine(seed=1))
    for epoch in range(3):
        served = [*batches.epoch(epoch)]
        assert len(served) == batches.per_epoch == -(-n // size)
        assert [len(a) for a, _ in served[:-1]] == [size] * (len(served) - 1)
        first, second = (torch.cat(column) for column in zip(*served, strict=True))
        assert sorted(first.tolist()) == list(range(n))
        assert torch.equal(second, first * 10.0)  # columns stay together
        rest = [a.tolist() for a, _ in batches.epoch(epoch, start=1)]
        assert rest == [a.tolist() for a, _ in served[1:]]


def test_batches_come_in_another_order_each_epoch_and_seed_but_always_the_same_one():
    def order(seed: int, epoch: int) -> list[int]:
        served = ShuffledBatches((torch.arange(50),), 8, Engine(seed=seed)).epoch(epoch)
        return torch.cat([column for (column,) in served]).tolist()

    assert order(1, 0) == order(1, 0)
    assert order(1, 0) != order(1, 1)
    assert order(1, 0) != order(2, 0)
    assert order(1, 0) != list(range(50))


def test_dropout_zeroes_the_asked_fraction_and_keeps_the_mean():
    dropout = Dropout(0.25)
    seed_dropout(nn.Sequential(dropout), torch.Generator().manual_seed(3))
    dropped = dropout(torch.ones(100_000))
    assert dropped.unique().tolist() == pytest.approx([0.0, 4 / 3])
    assert float((dropped == 0).float().mean()) == pytest.approx(0.25, abs=0.005)
    assert float(dropped.mean()) == pytest.approx(1.0, abs=0.01)
    dropout.eval()
    assert torch.equal(dropout(torch.ones(5)), torch.ones(5))
    assert torch.equal(Dropout(0.0)(torch.ones(5)), torch.ones(5))


def test_dropout_draws_from_its_generator_alone_and_prints_as_torchs():
    assert repr(Dropout(0.25)) == repr(nn.Dropout(0.25)) == "Dropout(p=0.25, inplace=False)"
    before = torch.get_rng_state()
    drawn = []
    for seed in (1, 1, 2):
        dropout = Dropout(0.5)
        dropout.generator = torch.Generator().manual_seed(seed)
        drawn.append(dropout(torch.ones(64)))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert torch.equal(torch.get_rng_state(), before)


def test_dropout_passes_gradients_through_the_units_it_keeps():
    dropout = Dropout(0.5)
    dropout.generator = torch.Generator().manual_seed(1)
    x = torch.ones(64, requires_grad=True)
    out = dropout(x)
    (gradient,) = torch.autograd.grad(out.sum(), x)
    assert torch.equal(gradient, out.detach())


def test_losses_have_their_known_values():
    assert squared_error(torch.tensor([1.0, 4.0]), torch.tensor([2.0, 2.0])) == 2.5
    assert root_mean_square(torch.tensor([3.0, 4.0])) == pytest.approx(12.5**0.5)
    assert root_mean_square(torch.full((1 << 24,), 0.1)) == pytest.approx(0.1, rel=1e-6)


@pytest.mark.parametrize("architecture", ["history", "article"])
def test_bfloat16_trains_to_a_similar_error(architecture, ratings):
    single, half = (
        small_model(architecture=architecture, epochs=6, refit=False).fit(
            ratings, Engine(seed=5, precision=precision)
        )
        for precision in ("float32", "bfloat16")
    )
    errors = [min(line["validation"] for line in m.curve_) for m in (single, half)]
    assert errors[0] == pytest.approx(errors[1], rel=0.03)
    first, second = single.state()[0], half.state()[0]
    assert all(tensor.dtype == torch.float32 for tensor in second.values())
    assert not torch.equal(first["network_.output.weight"], second["network_.output.weight"])


def test_plain_progress_lines_say_how_far_and_how_long_every_ten_seconds(monkeypatch):
    stream, clock = io.StringIO(), iter([9.0, 20.0, 20.0, 21.0])
    meter = Meter("choose", 100, stream, _printed=0.0, _started=0.0)
    monkeypatch.setattr("foretaste.training.engine.time.monotonic", lambda: next(clock))
    meter.advance(30, "epoch 1")
    meter.advance(10, "epoch 1")
    meter.advance(10, "epoch 1")
    assert stream.getvalue() == "choose: 40/100, 30 s left  epoch 1\n"
